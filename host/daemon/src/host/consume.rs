//! What the host takes its work from: the queues, each consumed for as long as the host lives,
//! whatever happens to the queue; and what it tells the other hosts.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Inner, Kind};
use crate::broker::{BrokerError, Confirmation, Consumer, Delivery, Settle};
use crate::job::Class;
use crate::losses::{self, Lost};
use crate::schedule::Pace;
use crate::topology::{self, CONTROL, Topology, UNDONE, UNSERVED};
use crate::wire;

/// How often prefetch is fitted to what the jobs take.
const FIT: Duration = Duration::from_millis(500);
/// Before a queue that is gone is declared again: at once it might come between the two halves of
/// what somebody does to it.
const PAUSE: Duration = Duration::from_millis(500);
/// Deliveries taken between two looks at everything else.
const AT_ONCE: usize = 64;
/// Unsettled deliveries of what is no job.
const LETTERS: u16 = 64;
/// Lost deliveries told in one message.
const TOLD: usize = 500;
/// How long the news of a host's end may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// One queue, and how to declare it.
pub(super) struct Source {
    queue: String,
    kind: Kind,
    topology: Arc<Topology>,
    /// Set when it is to be consumed no longer; the host's end sets it too.
    stop: CancellationToken,
    /// What was taken from it and has not ended.
    running: TaskTracker,
}

fn source(queue: &str, kind: Kind, topology: &Arc<Topology>, stop: &CancellationToken) -> Source {
    Source {
        queue: queue.to_owned(),
        kind,
        topology: Arc::clone(topology),
        stop: stop.clone(),
        running: TaskTracker::new(),
    }
}

/// Declares what all hosts share, and answers the queues of it that this host consumes.
pub(super) async fn common(inner: &Inner) -> Result<Vec<Source>, BrokerError> {
    let broker = inner.broker.as_ref();
    let common = Arc::new(topology::common(&inner.config));
    topology::declare(broker, &common).await?;
    let control = Arc::new(topology::control());
    topology::declare(broker, &control).await?;
    let own = control.queues.first().map(|q| q.name.clone()).unwrap_or_default();
    let stop = &inner.stopping;
    Ok(vec![
        source(&own, Kind::Control, &control, stop),
        source(UNDONE, Kind::Undone, &common, stop),
        source(UNSERVED, Kind::Unserved, &common, stop),
    ])
}

/// Declares what a model has, once, and subscribes to its queues, to be consumed until `stop`.
pub(super) async fn open_model(
    inner: &Inner,
    model: &str,
    stop: &CancellationToken,
) -> Vec<(Source, Result<Consumer, BrokerError>)> {
    let mut all = Vec::new();
    let mut declared = false;
    for source in of_model(model, stop) {
        let first = if declared {
            source.open(inner).await
        } else {
            let begun = source.begin(inner).await;
            declared = begun.is_ok();
            begun
        };
        all.push((source, first));
    }
    all
}

/// The queues of a model.
fn of_model(model: &str, stop: &CancellationToken) -> Vec<Source> {
    let topology = Arc::new(topology::of_model(model));
    let pace = Arc::new(Pace::default());
    let mut sources: Vec<Source> = Class::ALL
        .iter()
        .map(|&class| source(&wire::job_queue(model, class), Kind::Job(Arc::clone(&pace)), &topology, stop))
        .collect();
    sources.push(source(&wire::isolated_queue(model), Kind::Isolated(pace), &topology, stop));
    sources
}

impl Source {
    /// As much as is wanted now.
    fn prefetch(&self, inner: &Inner) -> u16 {
        match (&self.kind, inner.config.prefetch) {
            // Whoever runs alone must be alone in what its host's death takes with it, too.
            (Kind::Isolated(_), _) => 1,
            (Kind::Job(pace), 0) => pace.prefetch(inner.config.slot_count()),
            (Kind::Job(_), fixed) => fixed,
            (Kind::Undone | Kind::Unserved | Kind::Control, _) => LETTERS,
        }
    }

    /// Declares the queue and subscribes.
    async fn begin(&self, inner: &Inner) -> Result<Consumer, BrokerError> {
        topology::declare(inner.broker.as_ref(), &self.topology).await?;
        self.open(inner).await
    }

    /// Subscribes.
    pub(super) async fn open(&self, inner: &Inner) -> Result<Consumer, BrokerError> {
        inner.broker.consume(&self.queue, self.prefetch(inner)).await
    }

    /// Declares the queue anew and subscribes, until that works or it is to stop.
    pub(super) async fn again(&self, inner: &Inner) -> Option<Consumer> {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                () = sleep(PAUSE) => {}
            }
            match self.begin(inner).await {
                Ok(consumer) => {
                    tracing::info!(queue = self.queue, "consuming again");
                    return Some(consumer);
                }
                Err(error) => tracing::warn!(queue = self.queue, %error, "cannot consume; trying again"),
            }
        }
    }
}

/// Starts the work on a delivery.
fn begin(inner: &Arc<Inner>, source: &Source, delivery: Delivery) {
    inner.counters.taken.fetch_add(1, Ordering::Relaxed);
    let (host, kind) = (Arc::clone(inner), source.kind.clone());
    source.running.spawn(async move {
        // All that a job needs on its way is large: it is made in its place, not handed from hand to hand.
        Box::pin(host.take(&kind, delivery)).await;
        host.counters.settled.fetch_add(1, Ordering::Relaxed);
    });
}

/// Takes deliveries until it is to stop, and waits for all that was taken.
pub(super) async fn consume(inner: Arc<Inner>, source: Source, first: Consumer) {
    let mut next = Some(first);
    while let Some(consumer) = next {
        // Taken apart in here: the future must own the subscription, not only what it reads.
        let Consumer { mut deliveries, mut deaths, subscription } = consumer;
        let mut prefetch = source.prefetch(&inner);
        let mut ticks = interval(FIT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Nothing to fit where nothing comes: most queues of a thousand models are idle most of the time.
        let mut idle = false;
        let stop = source.stop.clone();
        let mut stopped = std::pin::pin!(stop.cancelled());
        loop {
            let delivery = tokio::select! {
                biased;
                () = &mut stopped => break,
                // Before what comes again: some of it may never have been seen here.
                Ok(()) = deaths.changed() => {
                    inner.losses.channel_lost(&source.queue);
                    continue;
                }
                _ = ticks.tick(), if !idle => {
                    idle = source.running.is_empty();
                    let wanted = source.prefetch(&inner);
                    // A change costs a channel: not for a little.
                    if wanted >= prefetch.saturating_mul(2) || wanted <= prefetch / 2 {
                        tracing::debug!(queue = source.queue, from = prefetch, to = wanted, "prefetch fitted");
                        prefetch = wanted;
                        subscription.set_prefetch(wanted);
                    }
                    continue;
                }
                delivery = deliveries.recv() => delivery,
            };
            let Some(delivery) = delivery else { break };
            idle = false;
            begin(&inner, &source, delivery);
            // And what else is there already, but not so much that nothing else is looked at.
            for _ in 1..AT_ONCE {
                let Ok(delivery) = deliveries.try_recv() else { break };
                begin(&inner, &source, delivery);
            }
        }
        if source.stop.is_cancelled() {
            // What was delivered and not begun goes back unprocessed. The subscription lives until
            // every job of it is settled: dropping it would count them as failed.
            deliveries.close();
            while let Some(delivery) = deliveries.recv().await {
                inner.losses.lost(losses::key(&delivery.queue, &wire::job_key(&delivery)), false);
                inner.broker.settle(delivery.tag, Settle::Nack);
            }
            source.running.close();
            source.running.wait().await;
            drop(subscription);
            return;
        }
        drop(subscription);
        next = source.again(&inner).await;
    }
}

/// Tells the other hosts of lost deliveries, as soon as there is a connection to tell them on.
pub(super) async fn tell_losses(inner: Weak<Inner>) {
    loop {
        // Not held while waiting: a host that is dropped must go.
        let Some(host) = inner.upgrade() else { return };
        let all = timeout(FIT, host.losses.unsaid()).await;
        if let Ok(all) = all {
            tell(&host, all).await;
        }
    }
}

/// Tells the other hosts.
pub(super) async fn tell(inner: &Inner, all: Vec<Lost>) {
    for part in all.chunks(TOLD) {
        let message = wire::lost(CONTROL, &inner.run, part);
        let told = timeout(LAST_WORDS, inner.broker.publish(message, false)).await;
        if !matches!(told, Ok(Ok(Confirmation::Confirmed))) {
            inner.losses.still_unsaid(part.to_vec());
            sleep(Duration::from_millis(100)).await;
        }
    }
}

//! `warren submit`, `follow` and `cancel`: one job on a running broker.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::json;
use tokio::sync::mpsc;
use warren::broker::client::{BrokerTransport, event};
use warren::broker::{
    Broker, BrokerError, Confirmation, Consumer, Message, Properties, QueueSpec, Settle, Tag,
};
use warren::topology::CONTROL;
use warren_client::transport::BoxFuture;
use warren_client::{
    Client, EventBody, EventMessage, Follower, Replies, RequestMessage, Transport, TransportError,
};

use super::remote::{Target, flush, give_back};
use super::render::Render;
use super::request::{self, Request};

/// Prefix of the queues that hold the events of detached jobs.
const REPLY: &str = "warren.reply";
/// How long such a queue is kept when nobody looks at it.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Events of a job's own queue that are held until its end, so that following it again begins at
/// the beginning.
const HELD: u16 = 1000;

#[derive(clap::Args)]
pub struct Submit {
    /// The model to ask for.
    model: String,
    /// Before the others, or after them.
    #[arg(long, value_enum, default_value = "normal")]
    class: ClassName,
    /// The job's id; a fresh one without it.
    #[arg(long)]
    id: Option<String>,
    #[command(flatten)]
    request: Request,
    /// Print the job's id and end; `warren follow ID` shows its events, for a day.
    #[arg(long)]
    detach: bool,
    /// Where the events of a detached job go: a queue that exists, or exchange/routing-key.
    #[arg(long, value_name = "ADDRESS", requires = "detach")]
    reply_to: Option<String>,
    /// Print events as JSON lines.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum ClassName {
    Urgent,
    Normal,
    Bulk,
}

#[derive(clap::Args)]
pub struct Follow {
    /// The job's id.
    job: String,
    /// The queue that its events go to, where it is not the one of `submit --detach`. It is read,
    /// not emptied: all events, this job's too, are given back in their order at the end.
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// Take this job's events out of the queue.
    #[arg(long, requires = "queue")]
    take: bool,
    /// The most messages of the queue that are held while looking for the job's.
    #[arg(long, requires = "queue", default_value = "1000", value_parser = clap::value_parser!(u16).range(1..))]
    hold: u16,
    /// Give up when no event of the job has come for so long, e.g. 30s.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// Print events as JSON lines.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Args)]
pub struct Cancel {
    /// The jobs' ids.
    #[arg(required = true)]
    jobs: Vec<String>,
    #[command(flatten)]
    target: Target,
}

/// Submits a job and, unless it is detached, follows it; true when it ended in a result.
pub async fn submit(args: Submit) -> anyhow::Result<bool> {
    let (mut job, _) = request::request(&args.request, &args.model)?;
    job = job.class(match args.class {
        ClassName::Urgent => warren_client::Class::Urgent,
        ClassName::Normal => warren_client::Class::Normal,
        ClassName::Bulk => warren_client::Class::Bulk,
    });
    let id = args.id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    ensure!(!id.is_empty() && id.len() <= 200, "--id: use 1 to 200 bytes");
    job = job.id(id.clone());
    let (_, broker) = args.target.connect().await?;
    if args.detach {
        let address = match args.reply_to {
            Some(address) => {
                check_address(&broker, &address).await?;
                address
            }
            None => reply_queue(&broker, &id).await?,
        };
        let client = Client::connect(Arc::new(Detached::new(Arc::clone(&broker), address.clone()))).await?;
        if let Err(error) = client.submit(job).await {
            if address == reply_queue_name(&id) {
                broker.delete_queue(&address).await?;
            }
            return Err(error.into());
        }
        if args.json {
            println!("{}", json!({ "job": id, "reply_to": address }));
        } else {
            println!("{id}");
        }
        return Ok(true);
    }
    let client = Client::connect(Arc::new(BrokerTransport::new(broker))).await?;
    let mut handle = client.submit(job).await?;
    if !args.json {
        println!("job {id}");
    }
    let mut render = Render::new(args.json);
    let (mut succeeded, mut cancelled) = (false, false);
    loop {
        let event = tokio::select! {
            event = handle.next() => event,
            // Nobody would read its events any more.
            _ = tokio::signal::ctrl_c() => {
                if cancelled {
                    bail!("stopped following job {id}; it was asked to end");
                }
                cancelled = true;
                handle.cancel().await?;
                eprintln!("asked the hosts to cancel job {id}; Ctrl-C again does not wait for it");
                continue;
            }
        };
        let Some(event) = event else { break };
        let event = event?;
        succeeded = matches!(event.body, EventBody::Result(_));
        render.show(&id, &event)?;
    }
    Ok(succeeded)
}

/// The queue of a detached job's events.
fn reply_queue_name(job: &str) -> String {
    format!("{REPLY}.{job}")
}

async fn reply_queue(broker: &Arc<dyn Broker>, job: &str) -> anyhow::Result<String> {
    let name = reply_queue_name(job);
    let spec = QueueSpec { name: name.clone(), expires: Some(KEPT), ..QueueSpec::default() };
    broker.declare_queue(&spec).await?;
    Ok(name)
}

/// A host could not deliver the result to a queue that is not there.
async fn check_address(broker: &Arc<dyn Broker>, address: &str) -> anyhow::Result<()> {
    if address.contains('/') {
        return Ok(());
    }
    broker.depth(address).await.with_context(|| format!("--reply-to {address}: create the queue first"))?;
    Ok(())
}

/// Submits jobs whose events go elsewhere.
struct Detached {
    broker: BrokerTransport,
    address: String,
    /// Kept, for a stream that has ended means a connection that is gone.
    silent: Mutex<Option<mpsc::Sender<EventMessage>>>,
}

impl Detached {
    fn new(broker: Arc<dyn Broker>, address: String) -> Self {
        Self { broker: BrokerTransport::new(broker), address, silent: Mutex::default() }
    }
}

impl Transport for Detached {
    fn replies(&self) -> BoxFuture<'_, Result<Replies, TransportError>> {
        let (sender, events) = mpsc::channel(1);
        *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        let address = self.address.clone();
        Box::pin(async { Ok(Replies { address, events }) })
    }

    fn submit(&self, message: RequestMessage) -> BoxFuture<'_, Result<(), TransportError>> {
        self.broker.submit(message)
    }

    fn cancel<'a>(&'a self, job: &'a str) -> BoxFuture<'a, Result<(), TransportError>> {
        self.broker.cancel(job)
    }
}

/// What was read and not settled.
#[derive(Default)]
struct Held(VecDeque<Tag>);

impl Held {
    fn add(&mut self, tag: Tag) {
        // Those of a channel that died are back in the queue.
        self.0.retain(|held| held.channel == tag.channel);
        self.0.push_back(tag);
    }
}

/// Follows a job that was submitted before; true when it ended in a result.
pub async fn follow(args: Follow) -> anyhow::Result<bool> {
    let own = args.queue.is_none();
    let queue = args.queue.clone().unwrap_or_else(|| reply_queue_name(&args.job));
    let (_, broker) = args.target.connect().await?;
    let consumers = match broker.consumers(&queue).await {
        Err(BrokerError::NotFound { .. }) if own => bail!(
            "no queue {queue:?}: job {} was not submitted with `warren submit --detach`, or it was followed to its \
             end, or that is more than a day ago. Name the queue that its events go to with --queue",
            args.job
        ),
        other => other?,
    };
    ensure!(!own || consumers.is_none_or(|n| n == 0), "somebody follows job {} already", args.job);
    let ready = broker.depth(&queue).await?.ready;
    ensure!(
        own || ready <= u64::from(args.hold),
        "queue {queue:?} holds {ready} messages, more than --hold ({}): raise it, or let clients read the queue first. \
         What is given back keeps its order only where all of it is looked at",
        args.hold
    );
    let mut consumer = broker.consume(&queue, if own { HELD } else { args.hold }).await?;
    let mut held = Held::default();
    let result = look(&broker, &args, &mut consumer, &mut held).await;
    if own && result.is_ok() {
        broker.delete_queue(&queue).await?;
        return result;
    }
    let given_back = give_back(&broker, &queue, vec![(consumer, held.0.len())], args.take).await;
    let succeeded = result?;
    given_back?;
    flush(&broker).await?;
    Ok(succeeded)
}

/// Shows the job's events until the final one. What is read and not settled is `held`.
async fn look(
    broker: &Arc<dyn Broker>,
    args: &Follow,
    consumer: &mut Consumer,
    held: &mut Held,
) -> anyhow::Result<bool> {
    let own = args.queue.is_none();
    let limit = usize::from(if own { HELD } else { args.hold });
    let mut follower = Follower::new(args.job.clone());
    let mut render = Render::new(args.json);
    let mut succeeded = false;
    while !follower.is_done() {
        let next = async {
            match args.timeout {
                Some(timeout) => tokio::time::timeout(timeout, consumer.deliveries.recv()).await.ok(),
                None => Some(consumer.deliveries.recv().await),
            }
        };
        let delivery = tokio::select! {
            delivery = next => delivery,
            _ = tokio::signal::ctrl_c() => bail!("stopped following; the job goes on"),
        };
        let Some(delivery) = delivery else {
            bail!(
                "no event of job {} came in time (--timeout): it waits, or its events go elsewhere",
                args.job
            )
        };
        let Some(delivery) = delivery else { bail!("the queue was deleted") };
        let tag = delivery.tag;
        let message = event(delivery.message).filter(|event| event.job == args.job);
        let taken = message.is_some() && args.take;
        if let Some(event) = message.and_then(|message| follower.take(message)) {
            let event = event?;
            succeeded = matches!(event.body, EventBody::Result(_));
            render.show(&args.job, &event)?;
        }
        if taken {
            broker.settle(tag, Settle::Ack);
            continue;
        }
        held.add(tag);
        if held.0.len() < limit || follower.is_done() {
            continue;
        }
        ensure!(
            own,
            "the first {limit} messages of the queue do not hold the end of job {}: raise --hold, or let its clients \
             read it first",
            args.job
        );
        // No more would come.
        for tag in held.0.drain(..limit / 2) {
            broker.settle(tag, Settle::Ack);
        }
    }
    Ok(succeeded)
}

/// Tells every host that jobs are no longer wanted.
pub async fn cancel(args: Cancel) -> anyhow::Result<bool> {
    let (_, broker) = args.target.connect().await?;
    for job in &args.jobs {
        let properties = Properties {
            kind: Some("cancel".into()),
            correlation_id: Some(job.clone()),
            ..Properties::default()
        };
        let (exchange, routing_key) = (CONTROL.into(), String::new());
        let message = Message { exchange, routing_key, properties, body: bytes::Bytes::new() };
        match broker.publish(message, true).await {
            Ok(Confirmation::Confirmed) => println!("asked every host to cancel {job}"),
            Ok(Confirmation::Returned | Confirmation::Nacked) | Err(BrokerError::NotFound { .. }) => {
                bail!("no host listens on this broker: {job} was not cancelled")
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

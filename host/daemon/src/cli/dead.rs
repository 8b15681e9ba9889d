//! `warren dead`: the jobs that nobody could finish, and results that could not be delivered.

mod letter;

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use indicatif::ProgressBar;
use tokio::task::JoinSet;
use warren::broker::{Broker, BrokerError, Confirmation, Message, Settle, Tag};
use warren::job::Class;
use warren::wire::{DEAD, job_queue};

use super::remote::{Target, flush, give_back, progress};

/// Dead letters in hand that are not judged, and on their way.
const BATCH: u16 = 200;
/// How long a dead letter that was there is waited for. Somebody else may have it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which dead letters.
#[derive(clap::Args)]
pub struct Which {
    /// The job's id.
    #[arg(required_unless_present_any = ["all", "model", "code"])]
    job: Option<String>,
    /// All dead letters.
    #[arg(long, conflicts_with = "job")]
    all: bool,
    #[command(flatten)]
    filter: Filter,
}

/// Some of the dead letters.
#[derive(clap::Args, Default)]
pub struct Filter {
    /// Only those of this model.
    #[arg(long)]
    model: Option<String>,
    /// Only those with this code, e.g. PLUGIN_FAILED.
    #[arg(long)]
    code: Option<String>,
}

impl Filter {
    fn takes(&self, message: &Message) -> bool {
        self.model.as_deref().is_none_or(|model| letter::model(message) == model)
            && self.code.as_deref().is_none_or(|code| code.eq_ignore_ascii_case(letter::code(message)))
    }
}

impl Which {
    fn takes(&self, message: &Message) -> bool {
        self.job.as_deref().is_none_or(|job| letter::job(message) == job) && self.filter.takes(message)
    }
}

#[derive(clap::Subcommand)]
pub enum Command {
    /// One line for each dead letter.
    List {
        /// Print JSON, one line each.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        target: Target,
    },
    /// Everything about a job's dead letters.
    Show {
        /// The job's id.
        job: String,
        /// Print JSON, one line each.
        #[arg(long)]
        json: bool,
        /// Write the body alone, as it is, to standard output.
        #[arg(long, conflicts_with = "json")]
        body: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Send jobs back to their queues, and undelivered results to where they belong.
    Requeue {
        #[command(flatten)]
        which: Which,
        /// Send the events of those jobs here instead: a queue that exists, or exchange/routing-key.
        #[arg(long, value_name = "ADDRESS")]
        reply_to: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Forget dead letters.
    Purge {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        target: Target,
    },
}

/// What becomes of a dead letter.
enum Verdict {
    /// It stays.
    Keep,
    /// It is forgotten.
    Drop,
    /// It stays until the broker has confirmed this.
    Send(Box<Message>),
}

/// What became of the dead letters.
#[derive(Default)]
struct Swept {
    seen: u64,
    gone: u64,
    /// Those that could not be sent, by why.
    refused: BTreeMap<String, u64>,
}

impl Swept {
    fn refuse(&mut self, reason: String) {
        *self.refused.entry(reason).or_default() += 1;
    }
}

/// Hands every dead letter that is there now to `judge`, oldest first. What stays is unsettled until
/// the end, for given back at once it would come again; so one subscription after the other takes as
/// many as a channel may hold. Whenever this is cut off, nothing is lost: what was sent is
/// acknowledged after the broker has confirmed it.
async fn sweep(
    broker: &Arc<dyn Broker>,
    bar: &ProgressBar,
    mut judge: impl FnMut(&Message) -> anyhow::Result<Verdict>,
) -> anyhow::Result<Swept> {
    let count = broker.depth(DEAD).await?.ready;
    bar.set_length(count);
    let (mut swept, mut ends, mut routes) = (Swept::default(), Vec::new(), HashMap::new());
    let mut result = Ok(());
    while swept.seen < count && result.is_ok() {
        let mut consumer = broker.consume(DEAD, BATCH).await?;
        let (mut kept, mut sending) = (0usize, JoinSet::new());
        let mut channel = None;
        while swept.seen < count && kept < usize::from(BATCH) {
            let delivery = tokio::select! {
                Some(sent) = sending.join_next() => {
                    settle(broker, sent?, &mut swept, &mut kept);
                    continue;
                }
                delivery = tokio::time::timeout(PATIENCE, consumer.deliveries.recv()) => delivery,
            };
            let delivery = match delivery {
                Ok(Some(delivery)) => delivery,
                Ok(None) => {
                    result = Err(anyhow::anyhow!("the queue {DEAD} was deleted meanwhile"));
                    break;
                }
                Err(_) if sending.is_empty() => {
                    // Fewer are left than there were.
                    swept.seen = count;
                    break;
                }
                Err(_) => continue,
            };
            if *channel.get_or_insert(delivery.tag.channel) != delivery.tag.channel {
                result = Err(anyhow::anyhow!(
                    "the connection to the broker was lost meanwhile: nothing else is; run the command again"
                ));
                break;
            }
            swept.seen += 1;
            bar.inc(1);
            let tag = delivery.tag;
            match judge(&delivery.message) {
                Ok(Verdict::Keep) => kept += 1,
                Ok(Verdict::Drop) => {
                    broker.settle(tag, Settle::Ack);
                    swept.gone += 1;
                }
                Ok(Verdict::Send(message)) => match refusal(broker, &mut routes, &message).await? {
                    None => {
                        let place = letter::place(&message);
                        let confirm = broker.publish(*message, true);
                        sending.spawn(async move { (tag, place, confirm.await) });
                    }
                    Some(reason) => {
                        swept.refuse(reason);
                        kept += 1;
                    }
                },
                Err(error) => {
                    kept += 1;
                    result = Err(error);
                    break;
                }
            }
        }
        while let Some(sent) = sending.join_next().await {
            settle(broker, sent?, &mut swept, &mut kept);
        }
        ends.push((consumer, kept));
    }
    give_back(broker, DEAD, ends, swept.gone > 0).await?;
    bar.finish_and_clear();
    flush(broker).await?;
    result.map(|()| swept)
}

type Sent = (Tag, String, Result<Confirmation, BrokerError>);

fn settle(broker: &Arc<dyn Broker>, (tag, place, sent): Sent, swept: &mut Swept, kept: &mut usize) {
    let reason = match sent {
        Ok(Confirmation::Confirmed) => {
            broker.settle(tag, Settle::Ack);
            swept.gone += 1;
            return;
        }
        Ok(Confirmation::Returned) => format!("no queue is behind {place}"),
        Ok(Confirmation::Nacked) => format!("{place} is full"),
        Err(error) => format!("{place}: {error}"),
    };
    swept.refuse(reason);
    *kept += 1;
}

/// Why a job cannot be sent: its model has no queue. The exchange would take it all the same, and
/// hosts would end it.
async fn refusal(
    broker: &Arc<dyn Broker>,
    routes: &mut HashMap<String, bool>,
    message: &Message,
) -> anyhow::Result<Option<String>> {
    if message.properties.kind.is_some() {
        return Ok(None);
    }
    let key = &message.routing_key;
    let there = match routes.get(key) {
        Some(there) => *there,
        None => {
            let (model, class) = Class::split(key);
            let there = match broker.depth(&job_queue(model, class)).await {
                Ok(_) => true,
                Err(BrokerError::NotFound { .. }) => false,
                Err(error) => return Err(error.into()),
            };
            routes.insert(key.clone(), there);
            there
        }
    };
    Ok((!there).then(|| format!("no queue takes jobs for {key}: load its plugin first")))
}

/// Works on the dead letters.
pub async fn dead(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::List { json, filter, target } => list(json, &filter, &target).await,
        Command::Show { job, json, body, target } => show(&job, json, body, &target).await,
        Command::Requeue { which, reply_to, target } => requeue(&which, reply_to.as_deref(), &target).await,
        Command::Purge { which, target } => purge(&which, &target).await,
    }
}

async fn list(json: bool, filter: &Filter, target: &Target) -> anyhow::Result<bool> {
    let (_, broker) = target.connect().await?;
    let mut shown = 0u64;
    let mut out = std::io::stdout().lock();
    let swept = sweep(&broker, &ProgressBar::hidden(), |message| {
        if filter.takes(message) {
            shown += 1;
            if json {
                writeln!(out, "{}", letter::json(message, false))?;
            } else {
                writeln!(out, "{}", letter::line(message))?;
            }
        }
        Ok(Verdict::Keep)
    })
    .await?;
    if !json {
        match swept.seen - shown {
            0 => writeln!(out, "{shown} dead letters")?,
            others => writeln!(out, "{shown} dead letters, {others} others")?,
        }
    }
    Ok(true)
}

async fn show(job: &str, json: bool, body: bool, target: &Target) -> anyhow::Result<bool> {
    let (_, broker) = target.connect().await?;
    let mut found = false;
    let mut out = std::io::stdout().lock();
    sweep(&broker, &ProgressBar::hidden(), |message| {
        if letter::job(message) == job {
            found = true;
            if body {
                out.write_all(&message.body)?;
            } else if json {
                writeln!(out, "{}", letter::json(message, true))?;
            } else {
                writeln!(out, "{}", letter::page(message))?;
            }
        }
        Ok(Verdict::Keep)
    })
    .await?;
    out.flush()?;
    ensure!(found, "no dead letter of job {job}: `warren dead list` shows them all");
    Ok(true)
}

async fn requeue(which: &Which, reply_to: Option<&str>, target: &Target) -> anyhow::Result<bool> {
    let (_, broker) = target.connect().await?;
    if let Some(queue) = reply_to.filter(|address| !address.contains('/')) {
        broker.depth(queue).await.with_context(|| format!("--reply-to {queue}: create the queue first"))?;
    }
    let bar = progress(0, "sending back");
    let swept = sweep(&broker, &bar, |message| {
        if !which.takes(message) {
            return Ok(Verdict::Keep);
        }
        Ok(Verdict::Send(Box::new(letter::revived(message.clone(), reply_to))))
    })
    .await?;
    println!("{} sent back", swept.gone);
    for (reason, count) in &swept.refused {
        eprintln!("{count} stay dead letters: {reason}");
    }
    none_of(which, &swept)?;
    Ok(swept.refused.is_empty())
}

async fn purge(which: &Which, target: &Target) -> anyhow::Result<bool> {
    let (_, broker) = target.connect().await?;
    let bar = progress(0, "forgetting");
    let swept =
        sweep(&broker, &bar, |message| Ok(if which.takes(message) { Verdict::Drop } else { Verdict::Keep }))
            .await?;
    println!("{} forgotten", swept.gone);
    none_of(which, &swept)?;
    Ok(true)
}

fn none_of(which: &Which, swept: &Swept) -> anyhow::Result<()> {
    match &which.job {
        Some(job) if swept.gone == 0 && swept.refused.is_empty() => bail!("no dead letter of job {job}"),
        _ => Ok(()),
    }
}

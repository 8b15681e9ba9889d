//! The house: a host on the embedded broker with a client beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tempfile::TempDir;
use warren::broker::client::BrokerTransport;
use warren::broker::embedded::Embedded;
use warren::broker::{Broker, Message, QueueDepth};
use warren::config::Config;
use warren::host::Host;
use warren::job::Class;
use warren::wire::{job_queue, retry_tier};
use warren_client::oip::{Data, InferResponse};
use warren_client::{Client, Event, EventBody, JobError, JobRequest};

use crate::{GLANCE, Inbox, PATIENCE, logs, within};

/// A host, its broker and a client. Dropping it abandons the host, as a crash does.
pub struct House {
    /// The test's own connection to the broker.
    pub broker: Embedded,
    /// A client with a connection of its own.
    pub client: Client,
    /// What the host was started with.
    pub config: Config,
    host: Option<Host>,
    _dir: TempDir,
}

/// The events of one job, in the order in which the client yields them.
#[derive(Debug)]
pub struct Seen {
    /// All of them; the last is final.
    pub events: Vec<Event>,
}

impl Seen {
    /// How the job ended.
    pub fn end(&self) -> Result<&InferResponse, &JobError> {
        match self.events.last().map(|e| &e.body) {
            Some(EventBody::Result(response)) => Ok(response),
            Some(EventBody::Error(error)) => Err(error),
            other => panic!("the last event is not final: {other:?}"),
        }
    }

    /// The code that the job failed with; `RESULT` if it did not.
    pub fn code(&self) -> &str {
        self.end().map_or_else(|e| e.code.as_str(), |_| "RESULT")
    }

    /// An output that is one text.
    pub fn text(&self, output: &str) -> String {
        let response = self.end().unwrap_or_else(|e| panic!("the job failed: {e}"));
        match response.output(output).map(|t| &t.data) {
            Some(Data::Strings(strings)) if strings.len() == 1 => {
                String::from_utf8_lossy(&strings[0]).into_owned()
            }
            other => panic!("output {output:?} is {other:?} in {response:?}"),
        }
    }

    /// Stage and message of every status.
    pub fn statuses(&self) -> Vec<(&str, Option<&str>)> {
        self.events
            .iter()
            .filter_map(|e| match &e.body {
                EventBody::Status { stage, message, .. } => Some((stage.as_str(), message.as_deref())),
                _ => None,
            })
            .collect()
    }
}

impl House {
    /// A house that serves these plugin folders, with statuses as they come.
    pub async fn open(plugins: &[PathBuf]) -> Self {
        Self::with(plugins, |_| {}).await
    }

    /// The same with another config.
    pub async fn with(plugins: &[PathBuf], change: impl FnOnce(&mut Config)) -> Self {
        let broker = Embedded::new();
        let connection: Arc<dyn Broker> = Arc::new(broker.connect());
        Self::on(broker, connection, plugins, change).await
    }

    /// A house on a broker that is there, whose host talks to it through `connection`.
    pub async fn on(
        broker: Embedded,
        connection: Arc<dyn Broker>,
        plugins: &[PathBuf],
        change: impl FnOnce(&mut Config),
    ) -> Self {
        logs::keep();
        let dir = tempfile::tempdir().expect("directory");
        let mut config = Config {
            scratch: Some(dir.path().to_owned()),
            slots: 2,
            tensor_threads: 2,
            retry_delays_ms: vec![20, 40],
            ..Config::default()
        };
        change(&mut config);
        let host = Host::new(config.clone(), connection).expect("the host starts");
        for folder in plugins {
            host.load(folder).await.unwrap_or_else(|e| panic!("{} does not load: {e}", folder.display()));
        }
        host.serve().await.expect("the host serves");
        let transport = BrokerTransport::new(Arc::new(broker.connect()));
        let client = Client::connect(Arc::new(transport)).await.expect("the client connects");
        Self { broker, client, config, host: Some(host), _dir: dir }
    }

    /// The host.
    pub fn host(&self) -> &Host {
        self.host.as_ref().expect("the host was shut down")
    }

    /// Where scratch directories are made.
    pub fn scratch(&self) -> &Path {
        self.config.scratch.as_deref().expect("set")
    }

    /// Scratch directories of batches that are there.
    pub fn scratches(&self) -> Vec<PathBuf> {
        let list =
            |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
        let hosts = list(self.scratch()).filter(|path| path.is_dir());
        hosts.flat_map(|host| list(&host).collect::<Vec<_>>()).collect()
    }

    /// Shuts the host down; true when all of its jobs had finished.
    pub async fn shutdown(&mut self) -> bool {
        within("the host's shutdown", self.host.take().expect("not yet shut down").shutdown()).await
    }

    /// Submits a job and follows it to its end.
    pub async fn run(&self, request: JobRequest) -> Seen {
        follow(&self.client, request).await
    }

    /// Publishes a job as it is; it must find a queue.
    pub async fn publish(&self, message: Message) {
        let confirmation = within("a confirm", self.broker.publish(message, true)).await;
        assert_eq!(confirmation.expect("the broker is there"), warren::broker::Confirmation::Confirmed);
    }

    /// Every queue of which a job may be in, with what it holds.
    pub async fn queues(&self) -> Vec<(String, QueueDepth)> {
        let mut names = vec![warren::topology::UNDONE.to_owned()];
        names.extend(
            self.config.retry_delays_ms.iter().map(|ms| retry_tier(std::time::Duration::from_millis(*ms))),
        );
        for model in self.host().plugins().models() {
            names.extend(Class::ALL.map(|class| job_queue(&model, class)));
        }
        let mut queues = Vec::new();
        for name in names {
            let depth = self.broker.depth(&name).await.expect("the queue is there");
            queues.push((name, depth));
        }
        queues
    }

    /// Waits until no job is in any queue, nor delivered and not settled.
    pub async fn quiet(&self) {
        let start = Instant::now();
        loop {
            let mut queues = self.queues().await;
            queues.retain(|(_, depth)| *depth != QueueDepth::default());
            if queues.is_empty() {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "still not settled: {queues:?}\n{}", logs::tail(30));
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Takes everything out of the dead-letter queue. Wait for [`Self::quiet`] before.
    pub async fn dead_letters(&self) -> Vec<Message> {
        let count = self.broker.depth(warren::wire::DEAD).await.expect("the queue is there").ready;
        let mut inbox = Inbox::open(&self.broker, warren::wire::DEAD).await;
        let mut letters = Vec::new();
        for _ in 0..count {
            letters.push(inbox.next().await);
        }
        letters
    }

    /// Asserts that the host answers a job of the plugin `echo` as ever.
    pub async fn answers(&self, after: &str) {
        let seen = self.run(JobRequest::new("echo").bytes("text", "still here")).await;
        assert_eq!(seen.code(), "RESULT", "after {after}: {:?}", seen.events);
        assert_eq!(seen.text("text"), "still here", "after {after}");
    }
}

/// Submits a job and follows it to its end.
pub async fn follow(client: &Client, request: JobRequest) -> Seen {
    let mut job = within("the submit's confirm", client.submit(request)).await.expect("the job is taken");
    let mut events = Vec::new();
    while let Some(event) = within("an event", job.next()).await {
        events.push(event.unwrap_or_else(|e| panic!("{e}; before it came {events:?}")));
    }
    Seen { events }
}

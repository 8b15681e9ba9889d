//! What the host declares on its broker: the exchanges and queues of the message contract, as data.
//! The same for every broker.

use std::time::Duration;

use crate::broker::{Broker, BrokerError, ExchangeKind, ExchangeSpec, QueueSpec};
use crate::config::Config;
use crate::job::Class;
use crate::wire::{DEAD, ISOLATED, JOBS, isolated_queue, job_queue, retry_tier};

/// Exchange and queue of jobs that left their queue undone: expired, or delivered too often.
/// Hosts consume it and tell the clients.
pub const UNDONE: &str = "warren.undone";

/// Exchange and queue of jobs for models that have no queue. Hosts consume it and tell the clients;
/// what no host takes becomes a dead letter.
pub const UNSERVED: &str = "warren.unserved";

/// Exchange of what clients ask of every host, e.g. cancellations.
pub const CONTROL: &str = "warren.control";

/// Exchange of rewards for past choices.
pub const REWARDS: &str = "warren.rewards";

/// Deliveries of one message that ended in a lost connection or a dead host.
pub const DELIVERY_LIMIT: u32 = 20;

/// Deliveries of a message that is kept until somebody has done with it. So many that none is ever
/// lost by being looked at; RabbitMQ 4.x drops it after 20 where no limit is set, and 3.10 takes no
/// other form of "never" than a large number.
pub const KEPT_LIMIT: u32 = 1_000_000;

/// A queue's place at an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The exchange.
    pub exchange: String,
    /// The queue.
    pub queue: String,
    /// The routing key; of a fanout exchange empty.
    pub key: String,
}

/// What there is on a broker. Exchanges come before those that name them as alternate or in a
/// dead-letter argument where it matters; declaring in order works.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Topology {
    /// Exchanges, all durable.
    pub exchanges: Vec<ExchangeSpec>,
    /// Queues.
    pub queues: Vec<QueueSpec>,
    /// Bindings.
    pub bindings: Vec<Binding>,
}

impl Topology {
    fn exchange(&mut self, name: &str, kind: ExchangeKind) {
        self.exchanges.push(ExchangeSpec::new(name, kind));
    }

    /// A fanout exchange and the one queue behind it, of the same name.
    fn parking(&mut self, spec: QueueSpec) {
        self.exchange(&spec.name, ExchangeKind::Fanout);
        self.bind(&spec.name.clone(), &spec.name.clone(), "");
        self.queues.push(spec);
    }

    fn bind(&mut self, queue: &str, exchange: &str, key: &str) {
        let (exchange, queue, key) = (exchange.to_owned(), queue.to_owned(), key.to_owned());
        self.bindings.push(Binding { exchange, queue, key });
    }
}

/// Everything that does not depend on a model.
pub fn common(config: &Config) -> Topology {
    let mut all = Topology::default();
    let plain = |name: &str| QueueSpec { name: name.to_owned(), ..QueueSpec::default() };
    let kept = |name: &str| QueueSpec { delivery_limit: Some(KEPT_LIMIT), ..plain(name) };
    all.parking(kept(DEAD));
    all.parking(kept(UNDONE));
    all.parking(QueueSpec {
        message_ttl: Some(Duration::from_millis(config.unserved_ms)),
        dead_letter: Some((DEAD.to_owned(), None)),
        ..plain(UNSERVED)
    });
    all.exchanges.push(ExchangeSpec {
        alternate: Some(UNSERVED.to_owned()),
        ..ExchangeSpec::new(JOBS, ExchangeKind::Topic)
    });
    all.exchange(ISOLATED, ExchangeKind::Topic);
    all.exchange(CONTROL, ExchangeKind::Fanout);
    all.exchange(REWARDS, ExchangeKind::Topic);
    all.queues.push(kept(&config.responses_queue));
    for delay in &config.retry_delays_ms {
        let delay = Duration::from_millis(*delay);
        all.parking(QueueSpec {
            message_ttl: Some(delay),
            dead_letter: Some((JOBS.to_owned(), None)),
            ..plain(&retry_tier(delay))
        });
    }
    all
}

/// The queues of a model: one a class, most urgent first, and last the one for jobs that run alone.
pub fn of_model(model: &str) -> Topology {
    let mut all = Topology::default();
    let queue = |name: &str| QueueSpec {
        name: name.to_owned(),
        dead_letter: Some((UNDONE.to_owned(), None)),
        delivery_limit: Some(DELIVERY_LIMIT),
        ..QueueSpec::default()
    };
    let isolated = isolated_queue(model);
    for class in Class::ALL {
        let (name, key) = (job_queue(model, class), format!("{model}{}", class.suffix()));
        all.bind(&name, JOBS, &key);
        all.bind(&isolated, ISOLATED, &key);
        all.queues.push(queue(&name));
    }
    all.queues.push(queue(&isolated));
    all
}

/// Declares it.
///
/// # Errors
/// [`BrokerError::Conflict`] when something of that name is there with other arguments.
pub async fn declare(broker: &dyn Broker, topology: &Topology) -> Result<(), BrokerError> {
    for exchange in &topology.exchanges {
        broker.declare_exchange(exchange).await?;
    }
    for queue in &topology.queues {
        broker.declare_queue(queue).await?;
    }
    for Binding { exchange, queue, key } in &topology.bindings {
        broker.bind(queue, exchange, key).await?;
    }
    Ok(())
}

/// A new host's own queue of control messages.
pub fn control() -> Topology {
    let name = format!("{CONTROL}.{}", uuid::Uuid::new_v4());
    let mut own = Topology::default();
    own.bind(&name, CONTROL, "");
    own.queues.push(QueueSpec {
        name,
        exclusive: true,
        message_ttl: Some(Duration::from_secs(60)),
        ..QueueSpec::default()
    });
    own
}

//! What the host declares on its broker: the exchanges and queues of the message contract. The
//! same for every broker.

use std::time::Duration;

use crate::broker::{Broker, BrokerError, ExchangeKind, QueueSpec};
use crate::config::Config;
use crate::job::Class;
use crate::wire::{DEAD, JOBS, job_queue, retry_tier};

/// Exchange and queue of jobs that left their queue undone: expired, or delivered too often.
/// Hosts consume it and tell the clients.
pub const UNDONE: &str = "warren.undone";

/// Exchange of what clients ask of every host, e.g. cancellations.
pub const CONTROL: &str = "warren.control";

/// Deliveries of one message that ended in a lost connection or a dead host.
pub const DELIVERY_LIMIT: u32 = 20;

/// Declares everything that does not depend on a model.
///
/// # Errors
/// [`BrokerError::Conflict`] when something of that name is there with other arguments.
pub async fn declare(broker: &dyn Broker, config: &Config) -> Result<(), BrokerError> {
    broker.declare_exchange(JOBS, ExchangeKind::Topic).await?;
    broker.declare_exchange(CONTROL, ExchangeKind::Fanout).await?;
    for name in [DEAD, UNDONE] {
        broker.declare_exchange(name, ExchangeKind::Fanout).await?;
        broker.declare_queue(&QueueSpec { name: name.to_owned(), ..QueueSpec::default() }).await?;
        broker.bind(name, name, "").await?;
    }
    broker.declare_queue(&QueueSpec { name: config.responses_queue.clone(), ..QueueSpec::default() }).await?;
    for delay in &config.retry_delays_ms {
        let delay = Duration::from_millis(*delay);
        let name = retry_tier(delay);
        broker.declare_exchange(&name, ExchangeKind::Fanout).await?;
        broker
            .declare_queue(&QueueSpec {
                name: name.clone(),
                message_ttl: Some(delay),
                dead_letter: Some((JOBS.to_owned(), None)),
                ..QueueSpec::default()
            })
            .await?;
        broker.bind(&name, &name, "").await?;
    }
    Ok(())
}

/// Declares the queues of a model and answers their names, most urgent first.
///
/// # Errors
/// As [`declare`].
pub async fn declare_model(broker: &dyn Broker, model: &str) -> Result<Vec<String>, BrokerError> {
    let mut queues = Vec::with_capacity(Class::ALL.len());
    for class in Class::ALL {
        let name = job_queue(model, class);
        broker
            .declare_queue(&QueueSpec {
                name: name.clone(),
                dead_letter: Some((UNDONE.to_owned(), None)),
                delivery_limit: Some(DELIVERY_LIMIT),
                ..QueueSpec::default()
            })
            .await?;
        broker.bind(&name, JOBS, &format!("{model}{}", class.suffix())).await?;
        queues.push(name);
    }
    Ok(queues)
}

/// Declares this host's own queue of control messages and answers its name.
///
/// # Errors
/// As [`declare`].
pub async fn declare_control(broker: &dyn Broker) -> Result<String, BrokerError> {
    let name = format!("{CONTROL}.{}", uuid::Uuid::new_v4());
    broker
        .declare_queue(&QueueSpec {
            name: name.clone(),
            exclusive: true,
            message_ttl: Some(Duration::from_secs(60)),
            ..QueueSpec::default()
        })
        .await?;
    broker.bind(&name, CONTROL, "").await?;
    Ok(name)
}

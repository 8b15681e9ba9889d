//! Which broker the config asks for, connected.

use std::path::Path;
use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::embedded::Embedded;
use crate::broker::rabbitmq::{self, RabbitMq};
use crate::config::Config;

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// RabbitMQ.
    #[error(transparent)]
    RabbitMq(#[from] rabbitmq::ConnectError),
    /// A certificate or key that the config names.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Connections to one broker: an embedded one exists once, RabbitMQ is connected to each time.
pub enum Brokers {
    /// In this process.
    Embedded(Embedded),
    /// At the addresses of the config.
    RabbitMq(Box<rabbitmq::Options>),
}

impl Brokers {
    /// The broker that the config asks for. Nothing is connected yet.
    ///
    /// # Errors
    /// [`ConnectError::Read`].
    pub fn new(config: &Config) -> Result<Self, ConnectError> {
        if config.is_embedded() {
            return Ok(Self::Embedded(Embedded::new()));
        }
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|source| ConnectError::Read { path: path.display().to_string(), source })
        };
        let amqp = &config.amqp;
        let identity = match (&amqp.certificate, &amqp.key) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            _ => None,
        };
        Ok(Self::RabbitMq(Box::new(rabbitmq::Options {
            addresses: config.addresses(),
            name: amqp.name.clone(),
            startup_timeout: std::time::Duration::from_millis(amqp.startup_ms),
            ca: amqp.ca.as_deref().map(read).transpose()?,
            identity,
            ..rabbitmq::Options::default()
        })))
    }

    /// A connection of its own.
    ///
    /// # Errors
    /// [`ConnectError::RabbitMq`].
    pub async fn connect(&self) -> Result<Arc<dyn Broker>, ConnectError> {
        Ok(match self {
            Self::Embedded(embedded) => Arc::new(embedded.connect()),
            Self::RabbitMq(options) => Arc::new(RabbitMq::connect((**options).clone()).await?),
        })
    }
}

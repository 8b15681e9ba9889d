//! What is on the broker against what is wanted there, without a change to it.
//!
//! The protocol shows nobody a queue's arguments. But a declaration that differs from what is there
//! is refused, and the refusal names the first argument that differs, with both values. So a
//! declaration is sent again and again, each time with what the last refusal told of, until it fits.

use std::collections::BTreeMap;

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use super::declare::{self, named};
use super::errors::{self, PRECONDITION_FAILED};
use super::{Difference, Shared};
use crate::broker::{BrokerError, ExchangeSpec, QueueSpec};

/// More refusals than arguments exist are no comparison.
const MOST: usize = 32;

/// A declaration that is fitted to what is there.
#[derive(Clone)]
struct Declared {
    durable: bool,
    auto_delete: bool,
    internal: bool,
    kind: lapin::ExchangeKind,
    arguments: BTreeMap<ShortString, AMQPValue>,
}

impl Declared {
    /// Takes over the value that is there; false where there is no way to ask for it.
    fn fit(&mut self, argument: &str, found: Option<(&str, &str)>) -> bool {
        let is_true = found.is_some_and(|(value, _)| value == "true");
        match argument {
            "durable" => self.durable = is_true,
            "auto_delete" => self.auto_delete = is_true,
            "internal" => self.internal = is_true,
            "type" => self.kind = lapin::ExchangeKind::Custom(found.unwrap_or_default().0.to_owned()),
            _ => return self.fit_argument(argument, found),
        }
        true
    }

    fn fit_argument(&mut self, argument: &str, found: Option<(&str, &str)>) -> bool {
        let Ok(name) = ShortString::try_new(argument) else { return false };
        let Some((value, kind)) = found else {
            self.arguments.remove(&name);
            return true;
        };
        // The type is told where it is another one than that of the declaration.
        let kind = match self.arguments.get(&name) {
            Some(AMQPValue::LongString(_)) if kind.is_empty() => "longstr",
            _ => kind,
        };
        let value = match (kind, value.parse::<i64>()) {
            ("longstr", _) => AMQPValue::LongString(LongString::from(value.as_bytes())),
            ("bool", _) => AMQPValue::Boolean(value == "true"),
            (_, Ok(number)) => AMQPValue::LongLongInt(number),
            _ => return false,
        };
        // An argument that is refused again would be so for ever.
        self.arguments.insert(name, value.clone()) != Some(value)
    }
}

fn shown(value: Option<(&str, &str)>) -> String {
    value.map_or("none", |(value, _)| value).to_owned()
}

/// What a refused declaration says; the error itself where it says something else.
fn refusal<T>(declared: lapin::Result<T>) -> lapin::Result<Option<String>> {
    match declared {
        Ok(_) => Ok(None),
        Err(error) => match errors::reply(&error) {
            Some((PRECONDITION_FAILED, text)) => Ok(Some(text.to_owned())),
            _ => Err(error),
        },
    }
}

/// Sends declarations with `declare` until one fits.
async fn fit<F>(
    operation: &'static str,
    mut declared: Declared,
    declare: impl Fn(Declared) -> F,
) -> Result<Vec<Difference>, BrokerError>
where
    F: Future<Output = Result<Option<String>, BrokerError>>,
{
    let mut differences = Vec::new();
    for _ in 0..MOST {
        let Some(text) = declare(declared.clone()).await? else { return Ok(differences) };
        let found = errors::inequivalent(&text);
        // What it differs in otherwise is not to be known before this is put right.
        let Some(different) = found else {
            if differences.is_empty() {
                return Err(BrokerError::Refused { operation, reason: text });
            }
            return Ok(differences);
        };
        differences.push(Difference {
            argument: different.argument.to_owned(),
            found: shown(different.found),
            wanted: shown(different.wanted),
        });
        if !declared.fit(different.argument, different.found) {
            return Ok(differences);
        }
    }
    Ok(differences)
}

/// How the queue differs.
pub(super) async fn queue(shared: &Shared, spec: &QueueSpec) -> Result<Vec<Difference>, BrokerError> {
    let operation = "the comparison of a queue";
    let name = named(operation, &spec.name)?;
    // Only what is there may be declared.
    shared.look(&spec.name).await?;
    let (options, arguments) = declare::queue(spec);
    let declared = Declared {
        durable: options.durable,
        auto_delete: false,
        internal: false,
        kind: lapin::ExchangeKind::Direct,
        arguments: arguments.inner().clone(),
    };
    fit(operation, declared, |declared| {
        let name = name.clone();
        async move {
            let options = QueueDeclareOptions {
                durable: declared.durable,
                auto_delete: declared.auto_delete,
                exclusive: spec.exclusive,
                ..QueueDeclareOptions::default()
            };
            let ask = |channel: lapin::Channel| {
                let (name, arguments) = (name.clone(), FieldTable::from(declared.arguments.clone()));
                async move { refusal(channel.queue_declare(name, options, arguments).await) }
            };
            shared.ask(operation, "queue", &spec.name, ask).await
        }
    })
    .await
}

/// How the exchange differs.
pub(super) async fn exchange(shared: &Shared, spec: &ExchangeSpec) -> Result<Vec<Difference>, BrokerError> {
    let operation = "the comparison of an exchange";
    let name = named(operation, &spec.name)?;
    let (kind, arguments) = declare::exchange(spec);
    let declare = |declared: Declared, passive: bool| {
        let name = name.clone();
        async move {
            let options = ExchangeDeclareOptions {
                passive,
                durable: declared.durable,
                auto_delete: declared.auto_delete,
                internal: declared.internal,
                ..ExchangeDeclareOptions::default()
            };
            let ask = |channel: lapin::Channel| {
                let (name, kind) = (name.clone(), declared.kind.clone());
                let arguments = FieldTable::from(declared.arguments.clone());
                async move { refusal(channel.exchange_declare(name, kind, options, arguments).await) }
            };
            shared.ask(operation, "exchange", &spec.name, ask).await
        }
    };
    let declared = Declared {
        durable: true,
        auto_delete: false,
        internal: false,
        kind,
        arguments: arguments.inner().clone(),
    };
    declare(declared.clone(), true).await?;
    fit(operation, declared, |declared| declare(declared, false)).await
}

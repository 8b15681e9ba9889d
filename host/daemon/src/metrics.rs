//! What Prometheus reads of a host, in the OpenMetrics text form.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::plugin::{Plugins, Standing};

/// The content type of what [`text`] answers.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the host keeps about its plugins, read when somebody asks.
#[derive(Debug)]
struct PluginMetrics(Arc<Plugins>);

impl Collector for PluginMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let changes = self.0.changes();
        let mut loads = encoder.encode_descriptor(
            "warren_plugin_loads",
            "Attempts to put a plugin version into service, by what became of them",
            None,
            MetricType::Counter,
        )?;
        for (outcome, count) in
            [("loaded", changes.loaded), ("refused", changes.refused), ("rolled_back", changes.rolled_back)]
        {
            ConstCounter::new(count).encode(loads.encode_family(&[("outcome", outcome)])?)?;
        }
        let list = self.0.list();
        let standing = |wanted| list.iter().filter(|l| l.standing == wanted).count();
        let refused = self.0.refused().len();
        let mut plugins = encoder.encode_descriptor(
            "warren_plugins",
            "Plugin versions by what they are doing, and folders that are refused",
            None,
            MetricType::Gauge,
        )?;
        for (state, count) in [
            ("serving", standing(Standing::Serving)),
            ("standby", standing(Standing::Standby)),
            ("draining", standing(Standing::Draining)),
            ("refused", refused),
        ] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(plugins.encode_family(&[("state", state)])?)?;
        }
        Ok(())
    }
}

/// Everything, as text.
///
/// # Errors
/// That of the formatter, which is none in practice.
pub fn text(plugins: &Arc<Plugins>) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(PluginMetrics(Arc::clone(plugins))));
    let mut out = String::new();
    prometheus_client::encoding::text::encode(&mut out, &registry)?;
    Ok(out)
}

//! `warren device`: the devices that tensors can be computed on, which one a host with these settings
//! would use, and why.

use std::io::Write;

use serde_json::{Value, json};
use warren::host::tensor_engine;
use warren_tensor::DeviceInfo;

use super::Settings;

#[derive(clap::Args)]
pub struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Shows the devices. Fails where a host would not start for want of the one that it is to use.
pub fn device(args: &Args) -> anyhow::Result<bool> {
    let config = args.settings.load()?;
    let engine = tensor_engine(&config)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let devices: Vec<Value> = engine.devices().iter().map(to_json).collect();
        writeln!(out, "{:#}", json!({ "asked_for": config.device, "devices": devices }))?;
        return Ok(true);
    }
    writeln!(out, "device = {:?}", config.device)?;
    for device in engine.devices() {
        let mark = if device.chosen { "*" } else { " " };
        writeln!(out, "{mark} {} ({})", device.name, device.kind)?;
        writeln!(out, "    driver: {}", device.driver)?;
        if let (Some(binding), Some(buffer)) =
            (limit(device.max_binding_bytes), limit(device.max_buffer_bytes))
        {
            writeln!(
                out,
                "    largest tensor of a kernel: {} MiB, largest buffer: {} MiB",
                binding >> 20,
                buffer >> 20
            )?;
        }
        writeln!(out, "    {}: {}", if device.chosen { "chosen" } else { "not chosen" }, device.why)?;
    }
    Ok(true)
}

/// A limit of the device; none where memory alone is one.
fn limit(bytes: u64) -> Option<u64> {
    (bytes != u64::MAX).then_some(bytes)
}

fn to_json(device: &DeviceInfo) -> Value {
    json!({
        "name": device.name,
        "kind": device.kind,
        "driver": device.driver,
        "max_binding_bytes": limit(device.max_binding_bytes),
        "max_buffer_bytes": limit(device.max_buffer_bytes),
        "chosen": device.chosen,
        "why": device.why,
    })
}

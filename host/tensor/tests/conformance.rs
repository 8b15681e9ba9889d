//! The W3C web-platform-tests' WebNN cases, run through the engine. The cases are found by
//! WARREN_WEBNN_CONFORMANCE or beside the checkout; tolerances are those of the suite.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod webnn;

use std::sync::Arc;

use warren_tensor::{DeviceChoice, Engine, EngineConfig};

#[test]
fn webnn_conformance() {
    conformance(DeviceChoice::Cpu);
}

/// On a GPU if there is one, else on llvmpipe.
#[test]
fn webnn_conformance_on_wgpu() {
    if engine(DeviceChoice::Wgpu).is_ok() {
        conformance(DeviceChoice::Wgpu);
    } else if let Err(e) = engine(DeviceChoice::Adapter("llvmpipe".into())) {
        // An adapter that is there and wrong is no reason to skip.
        assert!(!e.to_string().contains("wrongly"), "{e}");
        eprintln!("SKIPPED: {e} (mesa-vulkan-drivers has llvmpipe)");
    } else {
        conformance(DeviceChoice::Adapter("llvmpipe".into()));
    }
}

fn engine(device: DeviceChoice) -> Result<Engine, warren_tensor::Error> {
    Engine::new(EngineConfig { threads: 2, poison: true, device, ..EngineConfig::default() })
}

fn conformance(device: DeviceChoice) {
    let Some(directory) = webnn::directory() else {
        eprintln!("SKIPPED: no WebNN conformance cases (set WARREN_WEBNN_CONFORMANCE to their folder)");
        return;
    };
    let engine = Arc::new(engine(device.clone()).unwrap());
    let table = webnn::run_all(&engine, &directory);
    println!("device {device}:\n{table}");
    assert!(table.failures.is_empty(), "{} failures:\n{}", table.failures.len(), table.failures.join("\n"));
    assert!(table.total()[0] > 0, "no case was found in {}", directory.display());
}

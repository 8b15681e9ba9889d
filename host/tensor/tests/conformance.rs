//! The W3C web-platform-tests' WebNN cases, run through the engine. The cases are found by
//! WARREN_WEBNN_CONFORMANCE or beside the checkout; tolerances are those of the suite.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod webnn;

use std::sync::Arc;

use warren_tensor::DeviceChoice;

#[test]
fn webnn_conformance() {
    conformance(DeviceChoice::Cpu);
}

/// On a GPU if there is one, else on llvmpipe.
#[test]
fn webnn_conformance_on_wgpu() {
    if let Some(device) = webnn::wgpu() {
        conformance(device);
    }
}

fn conformance(device: DeviceChoice) {
    let Some(directory) = webnn::directory() else {
        eprintln!("SKIPPED: no WebNN conformance cases (set WARREN_WEBNN_CONFORMANCE to their folder)");
        return;
    };
    let engine = Arc::new(webnn::engine(device.clone()).unwrap());
    let table = webnn::run_all(&directory, |case| webnn::run(&engine, case));
    println!("device {device}:\n{table}");
    assert!(table.failures.is_empty(), "{} failures:\n{}", table.failures.len(), table.failures.join("\n"));
    assert!(table.total()[0] > 0, "no case was found in {}", directory.display());
}

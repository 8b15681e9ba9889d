//! The W3C web-platform-tests' WebNN cases, run through the engine. The cases are found by
//! WARREN_WEBNN_CONFORMANCE or beside the checkout; tolerances are those of the suite.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod webnn;

use std::sync::Arc;

use warren_tensor::{Engine, EngineConfig};

#[test]
fn webnn_conformance() {
    let Some(directory) = webnn::directory() else {
        eprintln!("SKIPPED: no WebNN conformance cases (set WARREN_WEBNN_CONFORMANCE to their folder)");
        return;
    };
    let config = EngineConfig { threads: 2, poison: true, ..EngineConfig::default() };
    let engine = Arc::new(Engine::new(config).unwrap());
    let table = webnn::run_all(&engine, &directory);
    println!("{table}");
    assert!(table.failures.is_empty(), "{} failures:\n{}", table.failures.len(), table.failures.join("\n"));
    assert!(table.total()[0] > 0, "no case was found in {}", directory.display());
}

//! Builds the plugins and guests for wasm32-wasip2 and lays out a folder for each, as an operator
//! would drop it. They have a target directory of their own: cargo holds a lock on the outer one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Crate, library name, source folder.
const GUESTS: [(&str, &str, &str); 10] = [
    ("warren-plugin-echo", "echo", "plugins/echo"),
    ("warren-plugin-transcribe", "transcribe", "plugins/transcribe"),
    ("warren-guest-noop", "noop", "tests/guests/noop"),
    ("warren-guest-hostile", "hostile", "tests/guests/hostile"),
    ("warren-guest-kernels", "kernels", "tests/guests/kernels"),
    ("warren-guest-escape", "escape", "tests/guests/escape"),
    ("warren-guest-onnx", "onnx", "tests/guests/onnx"),
    ("warren-guest-conformance", "conformance", "tests/guests/conformance"),
    ("warren-guest-random", "random", "tests/guests/random"),
    ("warren-guest-weights", "weights", "tests/guests/weights"),
];

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("..");
    let target = root.join("target/guests");
    for folder in ["sdk/rust/src", "sdk/onnx/src", "wit", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", root.join(folder).display());
    }
    let mut cargo = Command::new(env::var("CARGO").expect("cargo sets it"));
    cargo.current_dir(&root).args(["build", "--profile", "guest", "--target", "wasm32-wasip2", "--locked"]);
    cargo.arg("--target-dir").arg(&target);
    for (package, _, _) in GUESTS {
        cargo.args(["-p", package]);
    }
    // What cargo sets for this build script must not leak into the build for another target.
    for (name, _) in env::vars() {
        if name.starts_with("CARGO_") && name != "CARGO_HOME"
            || name.starts_with("RUSTFLAGS")
            || name == "RUSTC_WRAPPER"
        {
            cargo.env_remove(name);
        }
    }
    // A third of the time: what tests run need not be as fast as what is shipped.
    cargo.env("CARGO_PROFILE_GUEST_LTO", "off").env("CARGO_PROFILE_GUEST_CODEGEN_UNITS", "16");
    let status = cargo.status().expect("cargo runs");
    assert!(
        status.success(),
        "the guests do not build: is the target there? `rustup target add wasm32-wasip2`"
    );
    for (_, library, source) in GUESTS {
        let source = root.join(source);
        println!("cargo:rerun-if-changed={}", source.join("src").display());
        println!("cargo:rerun-if-changed={}", source.join("plugin.toml").display());
        let folder = target.join("plugins").join(library);
        fs::create_dir_all(&folder).expect("folder");
        copy(&source.join("plugin.toml"), &folder.join("plugin.toml"));
        let wasm = target.join("wasm32-wasip2/guest").join(format!("{library}.wasm"));
        copy(&wasm, &folder.join(format!("{library}.wasm")));
    }
    println!("cargo:rustc-env=WARREN_GUESTS={}", target.join("plugins").display());
}

fn copy(from: &Path, to: &Path) {
    if let Err(error) = fs::copy(from, to) {
        panic!("cannot copy {} to {}: {error}", from.display(), to.display());
    }
}

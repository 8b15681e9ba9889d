#!/bin/sh
# What a build and a test run need beside cargo; installs what it can, names what it cannot.
set -eu
missing() {
    echo "prerequisites: $1" >&2
    exit 1
}
command -v cargo >/dev/null 2>&1 || missing "cargo is not installed: see https://rustup.rs"
command -v cc >/dev/null 2>&1 || missing "no C compiler (Debian: apt install gcc)"
sysroot=$(rustc --print sysroot)
if [ ! -d "$sysroot/lib/rustlib/wasm32-wasip2/lib" ]; then
    command -v rustup >/dev/null 2>&1 || missing "rustc has no target wasm32-wasip2 and there is no rustup to add it"
    rustup target add wasm32-wasip2 || missing "rustup could not add the target wasm32-wasip2: is the network there?"
fi
command -v python3 >/dev/null 2>&1 || missing "python3 is not installed; it fetches the demo's model (Debian: apt install python3 python3-pip)"

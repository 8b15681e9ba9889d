#!/bin/sh
# Fuzzes one target on one core: run.sh TARGET SECONDS. Corpora grow in target/fuzz/corpus; what breaks
# a promise is kept in target/fuzz/artifacts. Needs a C++ compiler, for libFuzzer.
set -eu
cd "$(dirname "$0")/../.."
name=${1:?which target? one of $(ls tests/fuzz/fuzz_targets | sed 's/\.rs$//' | tr '\n' ' ')}
seconds=${2:-60}
build=${CARGO_TARGET_DIR:-target/fuzz}
host=$(rustc -vV | sed -n 's/^host: //p')

# The versions that the workspace is built with.
cp Cargo.lock tests/fuzz/Cargo.lock
# The compiler that the workspace is built with takes the address sanitizer's flag only so.
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=address -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"
cargo build --release --target "$host" --target-dir "$build" --manifest-path tests/fuzz/Cargo.toml \
	--bin "$name"

mkdir -p "$build/corpus/$name" "$build/artifacts/$name"
dictionary=tests/fuzz/dictionaries/$name
[ ! -f "$dictionary" ] || set -- "-dict=$dictionary"
[ -f "$dictionary" ] || set --
exec "$build/$host/release/$name" "$@" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
	-max_len=8192 -print_final_stats=1 -artifact_prefix="$build/artifacts/$name/" \
	"$build/corpus/$name" "tests/fuzz/corpus/$name"

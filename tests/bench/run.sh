#!/bin/sh
# `make bench`: brings the peers, then runs the benches. Figures are ratios of one run. Parts can be
# chosen: BENCH="tensor host hotload jobs latency peers memory" make bench; the last four need RabbitMQ,
# and so does a part of hotload.
set -eu
cd "$(dirname "$0")/../.."
venv=target/bench-venv
pins="onnxruntime==1.32.0 numpy==2.4.6 celery==5.7.0 pika==1.4.4"
if [ "$(cat "$venv/pins" 2>/dev/null)" != "$pins" ]; then
    python3 -m venv "$venv" || { echo "bench: python3 has no venv (Debian: apt install python3-venv)" >&2; exit 1; }
    "$venv/bin/python" -m pip install -q --disable-pip-version-check $pins
    printf '%s' "$pins" >"$venv/pins"
fi
export WARREN_BENCH_PYTHON="$PWD/$venv/bin/python"
# amqplib as the example client has it.
export WARREN_BENCH_NODE="$PWD/target/clients/node"
export WARREN_BENCH_TRANSCRIBE="$PWD/target/plugins/transcribe"
parts=" ${BENCH:-tensor host hotload jobs latency peers memory} "
wants() { case "$parts" in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

cargo build --release --locked --workspace --bin warren --bench host --bench limits --bench hotload --bench rabbitmq --bench speed \
    --example wgpu_chain --example worst_errors
if wants tensor; then
    # A workspace of its own: nothing but this needs what it builds.
    cargo build --quiet --release --locked --manifest-path host/tensor/benches/peers/Cargo.toml \
        --target-dir target/bench-peers
    export WARREN_BENCH_PEERS="$PWD/target/bench-peers/release/warren-bench-peers"
    for threads in 1 2; do
        THREADS=$threads cargo bench --quiet --locked --workspace --bench speed
    done
    # Where there is no device of that name it says so, and that is all.
    "${CARGO_TARGET_DIR:-target}/release/examples/wgpu_chain" || true
    "${CARGO_TARGET_DIR:-target}/release/examples/worst_errors"
fi
if wants host; then
    cargo bench --quiet --locked --workspace --bench host
    cargo bench --quiet --locked --workspace --bench limits
fi
if wants hotload; then
    cargo bench --quiet --locked --workspace --bench hotload
fi
broker=""
for part in jobs latency peers memory; do
    if wants "$part"; then broker="$broker $part"; fi
done
if [ -n "$broker" ]; then
    cargo bench --quiet --locked --workspace --bench rabbitmq -- $broker
fi

#!/bin/sh
# `make bench`: brings the peers, then runs the benches. Figures are ratios of one run. The parts of
# the broker's bench can be chosen: BENCH="jobs latency" make bench
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
cargo build --release --locked --workspace --bin warren --bench host --bench rabbitmq
cargo bench --quiet --locked --workspace --bench host
cargo bench --quiet --locked --workspace --bench rabbitmq -- ${BENCH:-}

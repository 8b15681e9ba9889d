#!/bin/sh
# `make bench`: brings the peers, then runs the benches. Figures are ratios of one run.
set -eu
cd "$(dirname "$0")/../.."
venv=target/bench-venv
if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c 'import onnxruntime' 2>/dev/null; then
    python3 -m venv "$venv" || { echo "bench: python3 has no venv (Debian: apt install python3-venv)" >&2; exit 1; }
    "$venv/bin/python" -m pip install -q onnxruntime==1.32.0 numpy==2.4.6
fi
WARREN_BENCH_PYTHON=$PWD/$venv/bin/python WARREN_BENCH_TRANSCRIBE=$PWD/target/plugins/transcribe \
    exec cargo bench --locked -p warren-tests --bench host

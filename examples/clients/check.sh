#!/bin/bash
# Runs the three clients with the same job against a broker and host that run already, and compares
# what they print, job ids aside, and how they exit.
#
#     ./check.sh [--final] AMQP_URL MODEL [NAME=TEXT ...] [NAME:=VALUE ...]
#
# Prints the common output. Exit status: the clients' (0 result, 1 error event, 2 not sent), or 3 if
# they differ. Needs python3, node with npm, a JDK and librabbitmq-client-java; pika and amqplib are
# fetched into target/clients.
#
# Hosts leave out statuses that a newer one of the same stage replaces within moments. To compare,
# choose a job whose stages report twice at most (the echo plugin: two inputs).
set -u
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 2 ]; then
    echo "usage: check.sh [--final] AMQP_URL MODEL [NAME=TEXT ...] [NAME:=VALUE ...]" >&2
    exit 2
fi
libraries=$here/../../target/clients
"$here/prepare.sh" "$libraries" || exit 3
python=$libraries/python/bin/python
[ -x "$python" ] || python=python3

out=$(mktemp -d) || exit 3
trap 'rm -rf "$out"' EXIT

run() {
    local name=$1
    shift
    "$@" >"$out/$name.raw" 2>"$out/$name.err"
    echo "exit $?" >>"$out/$name.raw"
    sed -E 's/^job [0-9a-f-]{36}$/job ID/' "$out/$name.raw" >"$out/$name"
}

run python env PYTHONUTF8=1 PYTHONPATH="$libraries/python" "$python" "$here/python/submit.py" "$@"
run java "$here/java/run.sh" "$@"
run node env NODE_PATH="$libraries/node/node_modules" node "$here/node/submit.js" "$@"

differ=0
for name in java node; do
    diff -u --label python --label "$name" "$out/python" "$out/$name" || differ=1
done
if [ $differ = 1 ]; then
    tail -n +1 "$out"/*.err >&2
    exit 3
fi
cat "$out/python"
status=$(sed -n 's/^exit //p' "$out/python" | tail -n 1)
if [ "$status" -gt 1 ]; then
    tail -n +1 "$out"/*.err >&2
fi
exit "$status"

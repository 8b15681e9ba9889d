#!/bin/sh
# Fetches what the Python and the Node client need, as their files pin it, into DIR/python and
# DIR/node; nothing when it is there. The Java client takes Debian's librabbitmq-client-java.
#
#     ./prepare.sh DIR
#
# Then: DIR/python/bin/python submit.py ... and NODE_PATH=DIR/node/node_modules node submit.js ...
# Where python3 has no venv the packages themselves are in DIR/python: PYTHONPATH=DIR/python.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ $# = 1 ] || { echo "usage: prepare.sh DIR" >&2; exit 2; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
fail() {
    echo "prepare.sh: $1; the log:" >&2
    tail -n 20 "$2" >&2
    exit 1
}

# A copy of the pins is left behind by what was complete.
pins=$here/python/requirements.txt
if ! cmp -s "$pins" "$dir/python/pins"; then
    rm -rf "$dir/python"
    if python3 -m venv "$dir/python" >"$dir/python.log" 2>&1; then
        set -- "$dir/python/bin/python" -m pip install
    else
        # Debian has venv and pip in packages of their own.
        rm -rf "$dir/python"
        set -- python3 -m pip install --target "$dir/python"
    fi
    "$@" --quiet --disable-pip-version-check -r "$pins" >>"$dir/python.log" 2>&1 ||
        fail "pika could not be installed (Debian: apt-get install python3-venv; is the network there?)" "$dir/python.log"
    cp "$pins" "$dir/python/pins"
fi

pins=$here/node/package-lock.json
if ! cmp -s "$pins" "$dir/node/pins"; then
    rm -rf "$dir/node"
    mkdir "$dir/node"
    cp "$here/node/package.json" "$pins" "$dir/node"
    (cd "$dir/node" && npm ci --no-audit --no-fund) >"$dir/node.log" 2>&1 ||
        fail "amqplib could not be installed (is npm there, and the network?)" "$dir/node.log"
    cp "$pins" "$dir/node/pins"
fi

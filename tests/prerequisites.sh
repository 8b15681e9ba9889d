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
# Debian's packages of what is not there, all installed at once below.
packages=
# The tests start private nodes of it; the machine's own broker, if there is one, is left alone.
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || packages="$packages rabbitmq-server"
# So are registries.
[ -x /usr/bin/docker-registry ] || packages="$packages docker-registry"
# The example clients in Java, Node and Python, which the tests run.
command -v javac >/dev/null 2>&1 || packages="$packages default-jdk-headless"
[ -e /usr/share/java/amqp-client.jar ] || packages="$packages librabbitmq-client-java"
command -v node >/dev/null 2>&1 || packages="$packages nodejs"
command -v npm >/dev/null 2>&1 || packages="$packages npm"
python3 -c 'import ensurepip' 2>/dev/null || python3 -m pip --version >/dev/null 2>&1 || packages="$packages python3-venv"
if [ -n "$packages" ]; then
    command -v apt-get >/dev/null 2>&1 || missing "not found where Debian's packages put them:$packages"
    [ "$(id -u)" = 0 ] || missing "not installed: sudo apt-get install --no-install-recommends$packages"
    # The package of the broker would start one on the default port.
    policy=/usr/sbin/policy-rc.d
    made=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        made=1
    fi
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages; } \
        >/tmp/warren-apt.log 2>&1 || { [ -z "$made" ] || rm -f "$policy"; missing "apt-get could not install$packages: see /tmp/warren-apt.log"; }
    [ -z "$made" ] || rm -f "$policy"
fi
node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' || missing "node $(node --version) is too old: 18 or later is needed"
# Their libraries, out of the source tree.
root=$(cd "$(dirname "$0")/.." && pwd)
sh "$root/examples/clients/prepare.sh" "$root/target/clients" || missing "the example clients' libraries are not there"

#!/bin/sh
# Every test of the workspace. Those of the first lane mostly wait, for brokers that die and come back:
# the others run meanwhile. A cluster of brokers has the machine for itself.
set -u
cd "$(dirname "$0")/.."
waiting="broker_faults host_faults operator other_clients rabbitmq many_queues"
alone="cluster"

cargo test --workspace --locked --no-run || exit 1

others=
for file in */*/tests/*.rs tests/tests/*.rs */*/tests/*/main.rs tests/tests/*/main.rs; do
	[ -f "$file" ] || continue
	name=$(basename "${file%/main.rs}" .rs)
	case " $waiting $alone " in *" $name "*) ;; *) others="$others $name" ;; esac
done

# Runs the tests named, after cargo's own options.
lane() {
	tests=$1
	shift
	for test in $tests; do set -- "$@" --test "$test"; done
	cargo test --workspace --locked --no-fail-fast "$@"
}

mkdir -p target/tests
lane "$waiting" >target/tests/waiting.log 2>&1 &
waits=$!
lane "$others" --lib --bins
rest=$?
cargo test --workspace --locked --doc
doc=$?
wait "$waits"
waits=$?
cat target/tests/waiting.log
lane "$alone"
cluster=$?
[ "$waits$rest$doc$cluster" = 0000 ] || {
	echo "tests failed: what failed stands above" >&2
	exit 1
}

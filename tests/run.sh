#!/bin/sh
# Every test of the workspace. Those of the first lane mostly wait, for brokers that die and come back:
# the others run meanwhile.
set -u
cd "$(dirname "$0")/.."
waiting="broker_faults cluster host_faults"

cargo test --workspace --locked --no-run || exit 1

others=
for file in */*/tests/*.rs tests/tests/*.rs */*/tests/*/main.rs tests/tests/*/main.rs; do
	[ -f "$file" ] || continue
	name=$(basename "${file%/main.rs}" .rs)
	case " $waiting " in *" $name "*) ;; *) others="$others $name" ;; esac
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
[ "$waits$rest$doc" = 000 ] || {
	echo "tests failed: what failed stands above" >&2
	exit 1
}

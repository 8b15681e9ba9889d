#!/bin/sh
# Every test of the workspace. Those of the first two lanes mostly wait, for brokers that die and come
# back, for clocks and for child processes: the others run meanwhile.
set -u
cd "$(dirname "$0")/.."
first="broker_faults cluster"
second="host_faults operator many_queues oci hotload compile"

cargo test --workspace --locked --no-run || exit 1

others=
for file in */*/tests/*.rs tests/tests/*.rs */*/tests/*/main.rs tests/tests/*/main.rs; do
	[ -f "$file" ] || continue
	name=$(basename "${file%/main.rs}" .rs)
	case " $first $second " in *" $name "*) ;; *) others="$others $name" ;; esac
done

# Runs the tests named, after cargo's own options.
lane() {
	tests=$1
	shift
	for test in $tests; do set -- "$@" --test "$test"; done
	cargo test --workspace --locked --no-fail-fast "$@"
}

mkdir -p target/tests
lane "$first" >target/tests/first.log 2>&1 &
one=$!
lane "$second" >target/tests/second.log 2>&1 &
two=$!
lane "$others" --lib --bins
three=$?
cargo test --workspace --locked --doc
four=$?
wait "$one"
one=$?
wait "$two"
two=$?
cat target/tests/first.log target/tests/second.log
[ "$one$two$three$four" = 0000 ] || {
	echo "tests failed: what failed stands above, and in target/tests" >&2
	exit 1
}

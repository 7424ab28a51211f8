#!/bin/bash
# plants.sh FOLDER [SEEDS]: a test of the tests. Each program in FOLDER is the simulation with one bug planted in
# the code under test (plants/*.sed); it must be caught within SEEDS (default 1000) histories. TAP.
set -u
folder=$1
seeds=${2:-1000}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
plants=("$(dirname "$0")"/plants/*.sed)

echo "1..${#plants[@]}"
number=0
for plant in "${plants[@]}"; do
	name=$(basename "$plant" .sed)
	number=$((number + 1))
	if [ ! -x "$folder/$name" ]; then
		echo "not ok $number - $name"
		echo "# was not built"
		continue
	fi
	# Its own TMPDIR: what is caught ends in the middle. No sanitizer log: a bug that is meant is no finding.
	mkdir "$scratch/$name"
	TMPDIR=$scratch/$name KVC_TEST_RANDOM_ONLY=1 KVC_TEST_SEED=1 KVC_TEST_SEEDS=$seeds KVC_FAULT_SHEET='' \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS='' timeout 600 "$folder/$name" >"$scratch/log" 2>&1
	status=$?
	seed=$(sed -n 's/^# failed: KVC_TEST_SEED=\([0-9]*\) .*/\1/p' "$scratch/log" | head -n 1)
	if [ $status -ne 0 ] && [ -n "$seed" ]; then
		echo "ok $number - $name"
		echo "# caught by seed $seed: $(grep -m 1 -E 'ERROR|contract|error:' "$scratch/log" | cut -c1-140)"
	else
		echo "not ok $number - $name"
		echo "# not caught by $seeds seeds, status $status"
	fi
done

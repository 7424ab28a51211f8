#!/bin/bash
# Fuzzes every target: fuzz.sh SECONDS [TARGET...]. Built with clang, libFuzzer, ASan and UBSan.
#
# Each target runs for SECONDS, two at a time, from its corpus in tests/fuzz/corpus/NAME. New inputs go to
# build/fuzz/NAME/new, findings to build/fuzz/NAME/findings; the tree is not touched. Any finding is a failure.
set -u
cd "$(dirname "$0")/../.." || exit 1

seconds=${1:?usage: fuzz.sh SECONDS [TARGET...]}
shift
jobs=${FUZZ_JOBS:-2}
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
	for source in tests/fuzz/fuzz_*.c; do
		[ -f "$source" ] || continue
		name=$(basename "$source" .c)
		targets+=("${name#fuzz_}")
	done
fi
if [ ${#targets[@]} -eq 0 ]; then
	echo "fuzz: there are no targets in tests/fuzz"
	exit 1
fi

if ! command -v clang >/dev/null; then
	echo "fuzz: clang is not installed, which libFuzzer comes with: deploy/deps.sh"
	exit 1
fi
mkdir -p build
make --no-print-directory -j"$(nproc)" CC=clang FUZZ=1 SAN=address fuzzers >build/fuzz-build.log 2>&1 || {
	echo "fuzz: the targets do not build; the end of build/fuzz-build.log:"
	tail -n 30 build/fuzz-build.log
	exit 1
}
bin=build/clang-address-fuzz/bin/tests/fuzz

# fuzz_one NAME: everything that it says goes to its log, one line of result to stdout.
fuzz_one() {
	local name=$1 work=build/fuzz/$1 log=build/fuzz/$1/log status executions findings
	mkdir -p "$work/new" "$work/findings"
	rm -f "$work/findings"/*
	"$bin/fuzz_$name" -max_total_time="$seconds" -timeout=25 -rss_limit_mb=4096 -print_final_stats=1 \
		-artifact_prefix="$work/findings/" "$work/new" "tests/fuzz/corpus/$name" >"$log" 2>&1
	status=$?
	executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
	findings=$(find "$work/findings" -type f | wc -l)
	# A fuzzer that ended well and executed nothing has fuzzed nothing.
	if [ $status -eq 0 ] && [ "$findings" -eq 0 ] && [ "${executions:-0}" -gt 0 ]; then
		printf '%-20s %12s executions, no finding\n' "$name" "$executions"
		return 0
	fi
	printf '%-20s %12s executions, %s findings, exit status %s: FAILED, see %s\n' "$name" \
		"${executions:-?}" "$findings" $status "$log"
	tail -n 30 "$log"
	return 1
}
export -f fuzz_one
export bin seconds

echo "fuzzing ${#targets[@]} targets for $seconds s each, $jobs at a time"
printf '%s\n' "${targets[@]}" | xargs -P "$jobs" -I{} bash -c 'fuzz_one {}'
status=$?
[ $status -eq 0 ] && echo "no findings"
exit $status

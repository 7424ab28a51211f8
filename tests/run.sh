#!/bin/bash
# The whole gate: make test.
#
# Builds and checks each variant (gcc, clang, gcc with ASan+UBSan, gcc with TSan), then lint, installation and
# the README. Tests that have a long form run it in the first variant only. A variant that does not build is a
# failure. Logs go to build/test-logs; the last line is `N passed, N failed, N skipped` over everything.
#
#   tests/run.sh [STAGE...]   only these: gcc clang address thread lint install readme
set -u
cd "$(dirname "$0")/.." || exit 1

logs=build/test-logs
stages=("$@")
[ ${#stages[@]} -eq 0 ] && stages=(gcc lint install readme clang address thread)
jobs=${JOBS:-$(nproc)}
rm -rf "$logs"
mkdir -p "$logs"
started=$SECONDS

say() {
	printf '[%3d:%02d] %s\n' $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)) "$*"
}

# A stage that could not even begin: one failure, with the end of its log.
broken() {
	local name=$1 log=$2
	echo "0 1 0" >"$logs/$name.counts"
	echo "$name: did not build, see $log" >"$logs/$name.failures"
	say "$name: FAILED to build; the end of $log:"
	tail -n 40 "$log"
}

# build NAME MAKE-ARGUMENTS...
build() {
	local name=$1 log=$logs/$1.build.log
	shift
	say "$name: building"
	if ! make --no-print-directory -j"$jobs" "$@" >"$log" 2>&1; then
		broken "$name" "$log"
		return 1
	fi
}

# variant NAME OUT MAKE-ARGUMENTS...
variant() {
	local name=$1 out=$2
	shift 2
	build "$name" "$@" tests fuzzers || return 1
	say "$name: testing"
	KVC_TEST_LOGS=$logs tests/check.sh "$out" "$name"
}

# script NAME PROGRAM: a test script of the default build.
script() {
	build "$1" all || return 1
	say "$1"
	KVC_BIN=build/bin KVC_LIB=build/lib python3 tests/runner.py --name "$1" --logs "$logs" --timeout 600 "$2"
}

run_stage() {
	case $1 in
	gcc) KVC_TEST_FULL=1 variant gcc build CC=gcc cuda e2e ;; # what runs on a GPU machine is built, where nvcc is
	clang) variant clang build/clang CC=clang ;;
	address) variant gcc-address build/gcc-address CC=gcc SAN=address ;;
	thread) variant gcc-thread build/gcc-thread CC=gcc SAN=thread ;;
	lint) script lint tests/lint/lint.sh ;;
	install) script install tests/install.sh ;;
	readme) script readme tests/readme.sh ;;
	*)
		say "no such stage: $1"
		echo "0 1 0" >"$logs/$1.counts"
		return 1
		;;
	esac
}

for stage in "${stages[@]}"; do
	run_stage "$stage" || say "$stage: failed"
done

passed=0 failed=0 skipped=0
counted=0
for file in "$logs"/*.counts; do
	[ -f "$file" ] || continue
	read -r p f s <"$file"
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	counted=$((counted + 1))
done
# Every stage must have left its count: one that died without is a failure too.
if [ $counted -ne ${#stages[@]} ]; then
	say "$counted of ${#stages[@]} stages gave a count"
	failed=$((failed + ${#stages[@]} - counted))
fi

say "done; logs in $logs"
cat "$logs"/*.skips 2>/dev/null | sort | uniq -c | sed 's/^ *1 /skipped: /; s/^ *\([0-9]\)/skipped \1 times: /'
cat "$logs"/*.failures 2>/dev/null | sed 's/^/FAILED: /'
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ] && [ $passed -gt 0 ]

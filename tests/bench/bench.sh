#!/bin/bash
# make bench: every figure as a ratio against a reference of the same run: bench.sh BIN.
#
# The codec against memcpy, the daemon against the codec alone, a tenant beside another one, look-ups against Redis,
# the disk tier against fio and against itself without encryption, its start against reading the same bytes; the
# index against itself with fewer blocks.
# A reference that is not installed is skipped by name (deploy/deps.sh bench installs them). Figures mean something
# on a quiet machine only.
set -u
cd "$(dirname "$0")/../.." || exit 1

bin=${1:-build/bin}
export KVC_BIN=$bin
tmp=$(mktemp -d "${KVC_TEST_TMP:-/var/tmp}/kvc-bench-XXXXXX") || exit 1
redis_pid=
failed=0

cleanup() {
	if [ -n "$redis_pid" ]; then
		kill "$redis_pid" 2>/dev/null
		wait "$redis_pid" 2>/dev/null
	fi
	rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

title() {
	printf '\n== %s\n' "$*"
}

run() {
	if ! TMPDIR=$tmp "$@"; then
		echo "FAILED: $*"
		failed=1
	fi
}

redis_start() {
	if ! command -v redis-server >/dev/null; then
		echo "redis-server: not installed, its figures are skipped"
		return
	fi
	redis-server --port 0 --unixsocket "$tmp/redis" --save '' --appendonly no --daemonize no \
		--dir "$tmp" >"$tmp/redis.log" 2>&1 &
	redis_pid=$!
	for _ in $(seq 500); do
		[ -S "$tmp/redis" ] && return
		sleep 0.02
	done
	echo "redis-server: did not start, its figures are skipped:"
	tail -n 5 "$tmp/redis.log"
	kill "$redis_pid" 2>/dev/null
	redis_pid=
}

title "machine"
grep -m1 '^model name' /proc/cpuinfo || true
echo "$(nproc) processors, $(uname -sr), load $(cut -d' ' -f1-3 /proc/loadavg)"

title "codec against memcpy, one core"
run "$bin/tests/bench/bench_codec"

title "daemon against the codec alone, shared memory, RAM tier"
run "$bin/tests/bench/bench_daemon" --threads 1
[ "$(nproc)" -gt 1 ] && run "$bin/tests/bench/bench_daemon" --threads "$(nproc)"

title "a tenant while another one floods, against the same processor load"
run "$bin/tests/bench/bench_tenants"

title "look-ups against Redis, Unix sockets"
redis_start
if [ -n "$redis_pid" ]; then
	run "$bin/tests/bench/bench_lookup" --redis "$tmp/redis" --redis-pid "$redis_pid"
else
	run "$bin/tests/bench/bench_lookup"
fi

title "the index from 10^4 to 10^7 blocks"
run "$bin/tests/bench/bench_index"

title "disk tier against fio"
run tests/bench/disk_vs_fio.sh "$bin"

title "disk tier encrypted against plain"
run tests/bench/disk_encrypted.sh "$bin"

title "starting the disk tier against reading the same bytes"
mkdir -m 700 "$tmp/recover"
run "$bin/tests/bench/bench_recover" "$tmp/recover" 100000

exit $failed

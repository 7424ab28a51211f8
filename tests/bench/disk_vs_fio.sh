#!/bin/bash
# The disk tier next to fio, alternately in the same run: disk_vs_fio.sh BIN [DIR].
#
# Same request size, depth, total, O_DIRECT and io_uring; writes end with a sync on both sides. Prints every
# round, the medians and their ratios; the target is 0.8 both ways. What the drive does in between is seen by
# both, so the ratio of a quiet machine is what counts, not the GB/s.
set -u

bin=${1:?usage: disk_vs_fio.sh BIN [DIR]}
parent=${2:-${TMPDIR:-/var/tmp}}
request_kib=${KVC_BENCH_REQUEST_KIB:-4096}
depth=${KVC_BENCH_DEPTH:-8}
total_mib=${KVC_BENCH_TOTAL_MIB:-1024}
rounds=${KVC_BENCH_ROUNDS:-5}

if ! command -v fio >/dev/null; then
	echo "SKIP: fio is not installed"
	exit 0
fi
dir=$(mktemp -d "$parent/kvc-disk-XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT

# GB/s of one direction; terse output: KiB/s in field 7 (read) or 48 (write).
fio_run() {
	fio --name=x --filename="$dir/fio" --size="${total_mib}M" --bs="${request_kib}k" --iodepth="$depth" \
		--ioengine=io_uring --direct=1 --rw="$1" --end_fsync=1 --refill_buffers=0 --thread \
		--output-format=terse --terse-version=3 |
		awk -F';' -v field="$2" '/^3;fio/ { printf "%.3f\n", $field * 1024 / 1e9 }'
}

median() {
	sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

echo "requests of $request_kib KiB, depth $depth, $total_mib MiB, $rounds rounds, in $parent"
for round in $(seq "$rounds"); do
	rm -rf "$dir/fio" "$dir/tier"
	fio_write=$(fio_run write 48) || exit 1
	fio_read=$(fio_run read 7) || exit 1
	rm -f "$dir/fio"
	mkdir -m 700 "$dir/tier"
	ours=$("$bin/tests/bench/bench_disk" "$dir/tier" "$request_kib" "$depth" "$total_mib") || exit 1
	rm -rf "$dir/tier"
	echo "round $round: fio write $fio_write read $fio_read"
	echo "$ours"
	echo "$fio_write" >>"$dir/fio_write"
	echo "$fio_read" >>"$dir/fio_read"
	awk -F'[= ]' '$1 == "write" { print $3 }' <<<"$ours" >>"$dir/our_write"
	awk -F'[= ]' '$1 == "read" { print $3 }' <<<"$ours" >>"$dir/our_read"
done
for way in write read; do
	ours=$(median <"$dir/our_$way")
	theirs=$(median <"$dir/fio_$way")
	awk -v way="$way" -v a="$ours" -v b="$theirs" 'BEGIN {
		if (b <= 0) { print way ": fio gave no figure"; exit 1 }
		printf "%s: %.3f GB/s, fio %.3f GB/s, ratio %.2f\n", way, a, b, a / b }' || exit 1
done

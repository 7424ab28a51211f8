#!/bin/bash
# The disk tier next to fio, alternately in the same run: disk_vs_fio.sh BIN [DIR].
#
# Same request size, depth, total, O_DIRECT and io_uring, memory registered with the ring on both sides or on
# neither; writes end with a sync on both sides. Prints every round, the medians of GB/s and of seconds of
# processor time for a GB, and their ratios; the target is 0.9 of fio's GB/s both ways. What the drive does in
# between is seen by both, so the ratio of a quiet machine is what counts, not the GB/s.
set -u

bin=${1:?usage: disk_vs_fio.sh BIN [DIR]}
parent=${2:-${TMPDIR:-/var/tmp}}
sizes_kib=${KVC_BENCH_REQUEST_KIB:-128 4096}
depth=${KVC_BENCH_DEPTH:-8}
total_mib=${KVC_BENCH_TOTAL_MIB:-1024}
rounds=${KVC_BENCH_ROUNDS:-5}

if ! command -v fio >/dev/null; then
	echo "SKIP: fio is not installed"
	exit 0
fi
dir=$(mktemp -d "$parent/kvc-disk-XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT

# GB/s and seconds of processor time for a GB. Terse output: KiB in field 6 (read) or 47 (write), KiB/s behind
# it, milliseconds two further on; percent of the processor, user and system, in 88 and 89.
fio_run() {
	fio --name=x --filename="$dir/fio" --size="${total_mib}M" --bs="$1k" --iodepth="$depth" \
		--ioengine=io_uring --direct=1 --rw="$2" --fixedbufs="$3" --end_fsync=1 --refill_buffers=0 --thread \
		--output-format=terse --terse-version=3 |
		awk -F';' -v at="$([[ $2 == read ]] && echo 6 || echo 47)" '/^3;fio/ {
			gb = $at * 1024 / 1e9
			printf "%.3f %.4f\n", $(at + 1) * 1024 / 1e9, ($88 + $89) / 100 * $(at + 3) / 1000 / gb }'
}

median() {
	sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

# Of column $2 of file $1.
median_of() {
	awk -v column="$2" '{ print $column }' "$1" | median
}

round() {
	local kib=$1 registered=$2 ours
	rm -rf "$dir/fio" "$dir/tier"
	fio_run "$kib" write "$registered" >>"$dir/fio_write" || return 1
	fio_run "$kib" read "$registered" >>"$dir/fio_read" || return 1
	rm -f "$dir/fio"
	mkdir -m 700 "$dir/tier"
	ours=$("$bin/tests/bench/bench_disk" "$dir/tier" "$kib" "$depth" "$total_mib" "$registered") || return 1
	rm -rf "$dir/tier"
	echo "fio write $(tail -n 1 "$dir/fio_write") read $(tail -n 1 "$dir/fio_read") (GB/s, CPU s/GB)"
	echo "$ours"
	awk -F'[= ]' '$1 == "write" { print $3, $5 }' <<<"$ours" >>"$dir/our_write"
	awk -F'[= ]' '$1 == "read" { print $3, $5 }' <<<"$ours" >>"$dir/our_read"
}

for kib in $sizes_kib; do
	for registered in 0 1; do
		rm -f "$dir"/*_write "$dir"/*_read
		echo "requests of $kib KiB, depth $depth, registered $registered, $total_mib MiB, $rounds rounds, in $parent"
		for _ in $(seq "$rounds"); do
			round "$kib" "$registered" || exit 1
		done
		for way in write read; do
			awk -v what="$kib KiB, registered $registered, $way" -v a="$(median_of "$dir/our_$way" 1)" \
				-v b="$(median_of "$dir/fio_$way" 1)" -v c="$(median_of "$dir/our_$way" 2)" \
				-v d="$(median_of "$dir/fio_$way" 2)" 'BEGIN {
				if (b <= 0) { print what ": fio gave no figure"; exit 1 }
				printf "%s: %.3f GB/s, fio %.3f, ratio %.2f; CPU %.4f s/GB, fio %.4f\n", what, a, b, a / b, c, d }' ||
				exit 1
		done
	done
done

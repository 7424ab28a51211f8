#!/bin/bash
# The disk tier encrypted and plain, alternately in the same run: disk_encrypted.sh BIN [DIR].
#
# Prints every round, then for each direction the medians, their ratio, and the processor's seconds for each GB.
set -u

bin=${1:?usage: disk_encrypted.sh BIN [DIR]}
parent=${2:-${TMPDIR:-/var/tmp}}
request_kib=${KVC_BENCH_REQUEST_KIB:-1024}
depth=${KVC_BENCH_DEPTH:-16}
total_mib=${KVC_BENCH_TOTAL_MIB:-1024}
rounds=${KVC_BENCH_ROUNDS:-5}

dir=$(mktemp -d "$parent/kvc-disk-XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT

median() {
	sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

# of FORM WAY FIELD: the median of a field of that form's lines.
of() {
	awk -F'[= ]' -v way="$2" -v field="$3" '$1 == way { print $field }' "$dir/$1" | median
}

echo "requests of $request_kib KiB, depth $depth, $total_mib MiB, $rounds rounds, in $parent"
for round in $(seq "$rounds"); do
	for form in plain encrypted; do
		encrypted=$([ $form = encrypted ] && echo 1 || echo 0)
		mkdir -m 700 "$dir/tier"
		said=$("$bin/tests/bench/bench_disk" "$dir/tier" "$request_kib" "$depth" "$total_mib" 1 "$encrypted") ||
			exit 1
		rm -rf "$dir/tier"
		echo "round $round, $form:"
		echo "$said" | tee -a "$dir/$form"
	done
done
for way in write read; do
	awk -v way="$way" -v e="$(of encrypted $way 3)" -v p="$(of plain $way 3)" \
		-v ce="$(of encrypted $way 5)" -v cp="$(of plain $way 5)" 'BEGIN {
		printf "%s: encrypted %.3f GB/s, plain %.3f GB/s, ratio %.2f; processor %.3f and %.3f s a GB\n",
			way, e, p, e / p, ce, cp }' || exit 1
done

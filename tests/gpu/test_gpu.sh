#!/bin/sh
# The kernels' test on a GPU: a million random tiles, then a small set under each tool of compute-sanitizer.
#
#   test_gpu.sh PROGRAM FOLDER-OF-KEYS-AND-VALUES
set -eu

program=$1
folder=$2

"$program" 1000000 "${SEED:-1}" "$folder/keys.bf16" "$folder/values.bf16"
if ! command -v compute-sanitizer >/dev/null; then
	echo 'skip: compute-sanitizer: not installed'
	exit 0
fi
for tool in memcheck racecheck initcheck synccheck; do
	echo "compute-sanitizer $tool"
	compute-sanitizer --tool "$tool" --error-exitcode 1 "$program" 200 1 small
done

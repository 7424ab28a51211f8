#!/bin/bash
# Runs one fuzz target, built without a fuzzer, over its corpus: replay.sh BIN/tests/fuzz/fuzz_NAME.
# One test; an empty corpus is a failure.
set -eu
cd "$(dirname "$0")/../.."

target=$1
name=$(basename "$target")
name=${name#fuzz_}
mapfile -d '' inputs < <(find "tests/fuzz/corpus/$name" -type f -print0 2>/dev/null | sort -z)

echo "1..1"
if [ ${#inputs[@]} -eq 0 ]; then
	echo "not ok 1 - $name: no inputs in tests/fuzz/corpus/$name"
	exit 1
fi
# In batches: a corpus can be longer than a command line.
if printf '%s\0' "${inputs[@]}" | xargs -0 -n 500 "$target" >&2; then
	echo "ok 1 - $name: ${#inputs[@]} inputs"
else
	echo "not ok 1 - $name: one of ${#inputs[@]} inputs"
	exit 1
fi

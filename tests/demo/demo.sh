#!/bin/bash
# make demo: the main job, end to end, on a real model's KV cache: demo.sh BIN, where the programs are.
set -eu
cd "$(dirname "$0")/../.."

bin=${1:-build/bin}
for program in kvcellard kvcellar; do
	if [ ! -x "$bin/$program" ]; then
		echo "demo: $bin/$program is not there: run 'make demo', which builds it first" >&2
		exit 1
	fi
done
exec python3 tests/demo/demo.py "$bin"

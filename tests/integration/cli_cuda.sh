#!/bin/bash
# kvcellar bench --plane cuda, with a fake driver here and a fake engine there: cli_cuda.sh [BIN].
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/cli.sh
. tests/support/cli.sh

small=(bench --plane cuda --layers 4 --heads 2 --dim 64 --blocks 24)

# Without a driver, before there is a fake one: the library's text, whatever this machine has.
if ! ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1'; then
	daemon_start
	run 1 "there is no CUDA driver" "no driver" "${small[@]}"
	daemon_stop
fi
mkdir "$work/cuda"
export KVC_FAKE_CUDA_DIR=$work/cuda
export LD_LIBRARY_PATH=$bin/tests/fake${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

daemon_start
run 1 "start kvcellard with --gpus" "a daemon without engines" "${small[@]}"
daemon_stop

daemon_start --gpus 0 --gpu-engine "$PWD/$bin/tests/fake/kvcellar-engine-fake" --vram 4M
for layout in kv-first page-first head-first fused; do
	run 0 "blocks_verified          24" "layout $layout" "${small[@]}" --layout $layout
done
run 0 "blocks_verified" "keys only, fp16, pages that do not divide a block" "${small[@]}" --value-dim 0 --dtype fp16 \
	--page-tokens 48
run 0 "blocks_verified" "an engine's first page, one request at a time" "${small[@]}" --page-tokens 128 --depth 1 --batch 24
run 0 '"blocks": 3' "bytes, as JSON" "${small[@]}" --bytes 1000000 --json
run 1 "this machine has 1" "a GPU that is not there" "${small[@]}" --gpu 3
run 2 "expected one of" "a layout that is none" "${small[@]}" --layout diagonal
run 2 "the same dim" "fused halves of different width" "${small[@]}" --layout fused --value-dim 32
result "no device memory is left" "$(ls "$work/cuda")"
result "nothing is left at the daemon" "$("$program" stats --json |
	python3 -c 'import json, sys; s = json.load(sys.stdin); n = s["rpc.device_bytes"]; print("" if n == 0 else n)')"
finish

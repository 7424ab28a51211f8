#!/bin/bash
# All tests that need a GPU: make test-gpu calls it. Less than 8 minutes on an H200.
#
#   test_gpu.sh OUT FOLDER [PART...]
#
#   OUT     where it was built: build
#   FOLDER  of keys.bf16 and values.bf16, for the digests
#   PART    kernels: a million random tiles, a small set under each tool of compute-sanitizer, and the programs of the
#                    plane that measure nothing, all at once
#           device:  the engine's device layer
#           plane:   worker, daemon and engine, one program after the other: they measure times and memory
#
# The last line is `gpu: N passed, N failed, N skipped`. What the tests measured is printed before it.
set -u
cd "$(dirname "$0")/../.." || exit 1

out=$1
folder=$2
shift 2
parts=("$@")
[ ${#parts[@]} -eq 0 ] && parts=(kernels device plane)
logs=build/test-logs
names=()
mkdir -p "$logs"
export KVC_BIN=$out/bin KVC_LIB=$out/lib

# run NAME TIMEOUT PROGRAM...: one after the other
run() {
	local name=$1 timeout=$2
	shift 2
	rm -f "$logs/$name.counts"
	python3 tests/runner.py --name "$name" --logs "$logs" --timeout "$timeout" --jobs 1 "$@"
}

run_kernels() {
	local program=$out/bin/tests/gpu/test_kern tool
	names+=(kernels bytes)
	run bytes 240 "$out"/bin/tests/gpu/test_{layouts,forged,roads} "tests/gpu/apart.sh $out/bin/tests/gpu/test_layouts" &
	run kernels 300 "$program 1000000 ${SEED:-1} $folder/keys.bf16 $folder/values.bf16" &
	if command -v compute-sanitizer >/dev/null; then
		for tool in memcheck racecheck initcheck synccheck; do
			names+=("$tool")
			run $tool 300 "compute-sanitizer --tool $tool --error-exitcode 1 $program ${SANITIZED_TILES:-120} 1 small" &
		done
	else
		echo 'skip: compute-sanitizer: not installed'
	fi
	wait
}

run_part() {
	case $1 in
	kernels) run_kernels ;;
	device)
		names+=(device)
		run device 120 "$out/bin/tests/gpu/test_device"
		;;
	plane)
		names+=(plane)
		run plane 240 "$out"/bin/tests/gpu/test_{budget,start,worker_death,engine_death,gpus}
		;;
	*)
		echo "no part '$1': kernels, device, plane" >&2
		exit 2
		;;
	esac
}

started=$SECONDS
for part in "${parts[@]}"; do
	run_part "$part"
done
echo
grep -h '^# ' "$logs"/plane/*.log 2>/dev/null
echo
counts=("${names[@]/#/$logs/}")
cat "${counts[@]/%/.counts}" | awk -v want=${#names[@]} -v seconds=$((SECONDS - started)) '
	{ passed += $1; failed += $2; skipped += $3 }
	END {
		if (NR != want) { failed++; print "a part left no counts" }
		printf "gpu: %d passed, %d failed, %d skipped (%d s)\n", passed, failed, skipped, seconds
		exit failed > 0 || passed == 0
	}'

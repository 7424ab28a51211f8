#!/bin/bash
# Runs all tests of one built variant: check.sh OUT VARIANT (make check calls it).
#
#   OUT      where the variant was built: build, or build/VARIANT
#   VARIANT  gcc, clang, gcc-address, ...; a name with a sanitizer in it gives tests more time
#
# Test programs by folder: unit, sim, integration, fault (C); integration scripts (shell, Python); each fuzz target
# over its corpus; then the fault sheet of what they reported (tests/faults/sheet.py). KVC_TEST_FULL=1 asks for the
# full form of those that have a quick one. The last line is `VARIANT: N passed, N failed, N skipped`;
# tests/runner.py says what counts as what.
set -eu
cd "$(dirname "$0")/.."

if [ $# -ne 2 ]; then
	echo "usage: $0 OUT VARIANT" >&2
	exit 2
fi
out=$1
variant=$2
export KVC_BIN=$out/bin KVC_LIB=$out/lib KVC_VARIANT=$variant
logs=${KVC_TEST_LOGS:-build/test-logs}

timeout_s=180
prefix=
partial=
case $variant in
*address* | *thread*)
	timeout_s=540
	# The sanitizers' shadow memory and kernels with much address randomisation do not go together.
	if setarch -R true 2>/dev/null; then
		prefix="setarch -R"
	fi
	;;
esac
# How much of what is random: tiles of the codec's versions against each other, histories of the simulated
# cache.
if [ -n "${KVC_TEST_FULL:-}" ]; then
	timeout_s=540
	export KVC_TEST_TILES=${KVC_TEST_TILES:-300000} KVC_TEST_SEEDS=${KVC_TEST_SEEDS:-200}
else
	export KVC_TEST_TILES=${KVC_TEST_TILES:-100000} KVC_TEST_SEEDS=${KVC_TEST_SEEDS:-40}
fi

programs=()
add() {
	local file
	for file in "$@"; do
		if [ -f "$file" ]; then
			programs+=("$file")
		fi
	done
}
# Only what has a source: a program of a test that is gone may still lie there.
built() {
	local source name
	for source in tests/"$1"/"$2"_*.c; do
		name=$(basename "$source" .c)
		if [ -f "$source" ]; then
			echo "$out/bin/tests/$1/$name"
		fi
	done
}

# Programs of one thread, in which the thread sanitizer has nothing to see: it does not run them, and the rows of the
# sheet that only they show are skipped.
if [[ $variant == *thread* ]]; then
	partial=--partial
fi
single="sim/test_.*|unit/test_(admit|checkpoint|codec|codec_agree|conf|convert|convert_hints|expiry|extent|frame|idmap"
single+="|image|index|policy|record|region|stripe|summary|tenant_ids|wear|wire"
single+="|disk_(checkpoint|crash|keep|poison|scrub|summary))"
# The longest first, so that the last one does not run alone.
for folder in fault faults unit sim integration; do
	mapfile -t binaries < <(built $folder test)
	for binary in "${binaries[@]}"; do
		if [[ $variant != *thread* || ! ${binary#"$out/bin/tests/"} =~ ^($single)$ ]]; then
			programs+=("$binary")
		fi
	done
done
add tests/integration/*.sh tests/integration/test_*.py
# The CUDA kernels on a CPU: the Makefile builds this in one variant.
if [ -x "$out/bin/tests/gpu/test_kern_emulated" ]; then
	programs+=("$out/bin/tests/gpu/test_kern_emulated 2000 1 tests/data/keys.bf16 tests/data/values.bf16")
fi
# What runs on a GPU machine, in small, against stand-ins for driver and engine. The thread sanitizer has nothing to see
# in bytes and start-up times.
plane=("test_forged" "test_budget" "test_worker_death" "test_engine_death" "test_gpus" "bench_plane ram" "bench_gpus"
       "bench_step_fake small 1 1:-:-")
if [[ $variant != *thread* ]]; then
	plane+=("test_layouts" "test_start")
fi
for program in "${plane[@]}"; do
	programs+=("tests/gpu/e2e_fake.sh $program")
done
# The simulation with planted bugs, each of which must be caught: built in one variant.
if [ -d "$out/bin/tests/sim/plants" ]; then
	programs+=("tests/sim/plants.sh $out/bin/tests/sim/plants")
fi
# The kill loop in a quick form; `make killloop` is the long one.
programs+=("$out/bin/tests/fault/kill_loop --kills ${KVC_TEST_KILLS:-10}")
while read -r target; do
	if [[ $variant != *thread* ]]; then
		programs+=("tests/fuzz/replay.sh $target")
	fi
done < <(built fuzz fuzz)

if [ ${#programs[@]} -eq 0 ]; then
	echo "$variant: no test programs"
	exit 1
fi
mkdir -p "$logs"
rm -f "$logs/$variant.rows"
status=0
KVC_FAULT_SHEET=$(realpath "$logs")/$variant.rows \
	python3 tests/runner.py --name "$variant" --logs "$logs" --timeout "$timeout_s" --prefix "$prefix" \
	${KVC_TEST_JOBS:+--jobs "$KVC_TEST_JOBS"} "${programs[@]}" || status=1
python3 tests/faults/sheet.py --name "$variant" --logs "$logs" ${partial:+"$partial"} || status=1
exit $status

#!/bin/bash
# Figures of the GPU engine: make bench-gpu calls it. Less than 8 minutes on an H200.
#
#   bench_gpu.sh OUT [PART...]
#
#   kernels   throughput of the kernels, by number of multiprocessors
#   plane     worker to RAM tier and back against raw copies, both roads; VRAM tier; latency of a block
#   step      what puts and gets cost a worker that generates tokens
#   gpus      two GPUs of one daemon at once, where there are two
#   mps       the same under MPS, with a control daemon of its own that ends with it
#
# Each part can run by itself. Ratios come first.
set -u
cd "$(dirname "$0")/../.." || exit 1

out=$1
shift
parts=("$@")
[ ${#parts[@]} -eq 0 ] && parts=(plane gpus step mps kernels)
export KVC_BIN=$out/bin KVC_LIB=$out/lib
# Road 2's library finds the client's there.
export LD_LIBRARY_PATH=$PWD/$out/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
seconds=${STEP_SECONDS:-3}
failed=0

must() {
	"$@" || {
		echo "FAILED: $*"
		failed=1
	}
}

# Pipes and logs in a folder of its own, so that nobody else's MPS is touched and nobody else is served.
run_under_mps() {
	local folder
	if ! command -v nvidia-cuda-mps-control >/dev/null; then
		echo 'skip: mps: no nvidia-cuda-mps-control'
		return
	fi
	folder=$(mktemp -d)
	export CUDA_MPS_PIPE_DIRECTORY=$folder CUDA_MPS_LOG_DIRECTORY=$folder
	if nvidia-cuda-mps-control -d; then
		must timeout 150 "$out/bin/tests/gpu/bench_step" MPS "$seconds" 1:-:- 1:-:5 1:8:- 1:16:- 1:32:- 1:132:- 2:-:-
		echo quit | timeout 20 nvidia-cuda-mps-control >/dev/null
	else
		echo 'skip: mps: the control daemon did not start'
	fi
	unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
	rm -rf "$folder"
}

run_part() {
	local began=$SECONDS
	echo "== $1 =="
	case $1 in
	kernels)
		must "$out/bin/tests/gpu/bench_kern" quality
		must "$out/bin/tests/gpu/bench_kern" compact
		;;
	plane) must timeout 240 "$out/bin/tests/gpu/bench_plane" ram vram road2 latency ;;
	gpus)
		timeout 120 "$out/bin/tests/gpu/bench_gpus"
		case $? in
		0) ;;
		77) echo 'skip: gpus: fewer than two GPUs' ;;
		*) failed=1 && echo 'FAILED: bench_gpus' ;;
		esac
		;;
	step) must timeout 240 "$out/bin/tests/gpu/bench_step" plain "$seconds" ;;
	mps) run_under_mps ;;
	*)
		echo "no part '$1': kernels, plane, gpus, step, mps" >&2
		exit 2
		;;
	esac
	echo "== $1: $((SECONDS - began)) s =="
}

for part in "${parts[@]}"; do
	run_part "$part"
done
exit $failed

#!/bin/bash
# The GPU machine's tests and benches in small, against a fake CUDA driver and a fake engine: that they run, and that
# the road worker, daemon, engine holds together. Figures mean nothing here.
#
#   e2e_fake.sh PROGRAM [ARGUMENT...]    a program of the build's bin/tests/gpu, with what it needs around it
set -eu

bin=${KVC_BIN:-build/bin}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export KVC_FAKE_CUDA_DIR=$folder KVC_FAKE_CUDA_DEVICES=2
export LD_LIBRARY_PATH=$bin/tests/fake${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
program=$1
shift
"$bin/tests/gpu/$program" "$@"

#!/bin/bash
# kvcellar codec tells of every bad input what was wrong and what was expected: codec_command.sh [BIN].
set -u
cd "$(dirname "$0")/../.." || exit 1

program=${1:-${KVC_BIN:-build/bin}}/kvcellar
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
head -c 4096 tests/data/keys.bf16 >"$work/in" # 1 layer, 8 tokens, 2 heads, 128 channels

number=0
failed=0
result() {
	number=$((number + 1))
	if [ -z "$2" ]; then
		echo "ok $number - $1"
	else
		echo "not ok $number - $1: $2"
		failed=$((failed + 1))
	fi
}

# run CODE TEXT NAME ARGUMENT...: the command ends with that code, and says that text
run() {
	local code=$1 text=$2 name=$3 said got
	shift 3
	said=$("$program" codec "$@" 2>&1)
	got=$?
	if [ $got -ne "$code" ]; then
		result "$name" "exit code $got, expected $code: $said"
	elif [[ $said != *"$text"* ]]; then
		result "$name" "it says: $said"
	else
		result "$name" ""
	fi
}

shape=(--layers 1 --tokens 8 --heads 2 --dim 128)
good=(--in "$work/in" "${shape[@]}" --bits 4)

run 0 nmse "a good file" "${good[@]}"
run 0 '"nmse"' "as JSON" "${good[@]}" --json
run 0 "exit codes" "help" --help
run 2 "--in is missing" "no file" "${shape[@]}" --bits 4
run 2 "--bits is missing: expected a number from 2 to 8" "no bits" --in "$work/in" "${shape[@]}"
run 2 "expected a number from 2 to 8" "1 bit" --in "$work/in" "${shape[@]}" --bits 1
run 2 "expected a number from 2 to 8" "9 bits" --in "$work/in" "${shape[@]}" --bits 9
run 2 "expected a number from 2 to 8" "bits with a unit" --in "$work/in" "${shape[@]}" --bits 4b
run 2 "expected 16, 32, 64 or 128" "an odd group" "${good[@]}" --group 48
run 2 "expected a multiple of 16" "an odd dim" "${good[@]}" --dim 120
run 2 "expected a number from 16 to 1024" "a dim too large" "${good[@]}" --dim 2048
run 2 "expected a number from 1 to 512" "no layers" "${good[@]}" --layers 0
run 2 "expected a number from 0 to 1" "centre 2" "${good[@]}" --centre 2
run 2 "above 0 and up to 1" "a clip too large" "${good[@]}" --clip 1.5
run 2 "above 0 and up to 1" "a clip of nan" "${good[@]}" --clip nan
run 2 "expected bf16, fp16 or fp32" "an unknown type" "${good[@]}" --dtype fp8
run 2 "expected scalar, avx2 or avx512" "an unknown level" "${good[@]}" --simd sse9
run 2 "unknown option --frobnicate" "an unknown option" "${good[@]}" --frobnicate
run 2 "--out needs a value" "no value" "${good[@]}" --out
run 2 "unexpected argument x" "an argument too many" "${good[@]}" x
run 1 "has 4096 bytes, expected 8192" "a file too short" "${good[@]}" --tokens 16
run 1 "has 4096 bytes, expected 2048" "a file too long" "${good[@]}" --tokens 4
run 1 "No such file" "a missing file" --in "$work/none" "${shape[@]}" --bits 4
run 1 "expected a regular file" "a folder" --in "$work" "${shape[@]}" --bits 4
run 1 "cannot write $work/none/out" "an output that cannot be" "${good[@]}" --out "$work/none/out"
run 2 "--out is empty" "an output without a name" "${good[@]}" --out ""
run 1 "cannot write $work: it is no regular file" "an output that is a folder" "${good[@]}" --out "$work"
mkfifo "$work/pipe"
run 1 "$work/pipe: expected a regular file" "a pipe that nobody writes" --in "$work/pipe" "${shape[@]}" --bits 4
rm "$work/pipe"
run 1 "cannot write /dev/full" "a full disk" "${good[@]}" --out /dev/full
echo before >"$work/out"
said=$(trap '' XFSZ && ulimit -f 1 && "$program" codec "${good[@]}" --out "$work/out" 2>&1) && said="exit code 0: $said"
[[ $said == *"cannot write $work/out: File too large"* ]] && said=
result "an output that becomes too large" "$said"
[ "$(cat "$work/out")" = before ] && said= || said="it is gone"
result "the file that was there stays" "$said"
result "nothing else is left" "$(find "$work" -mindepth 1 ! -name in ! -name out)"

# A tile with a NaN is stored raw, bit for bit.
printf '\x81\x7f' | dd of="$work/in" bs=1 seek=100 conv=notrunc status=none
run 0 "raw_tiles" "a NaN" "${good[@]}" --out "$work/out"
result "its bits are kept" "$(cmp <(head -c 256 "$work/in") <(head -c 256 "$work/out") 2>&1)"
echo "1..$number"
[ $failed -eq 0 ]

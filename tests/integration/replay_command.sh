#!/bin/bash
# kvcellar replay: pinned results on a small trace, and what it says of bad input: replay_command.sh [BIN].
set -u
cd "$(dirname "$0")/../.." || exit 1

program=${1:-${KVC_BIN:-build/bin}}/kvcellar
trace=tests/data/trace.jsonl
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

number=0
failed=0
result() {
	number=$((number + 1))
	if [ -z "$2" ]; then
		echo "ok $number - $1"
	else
		echo "not ok $number - $1: ${2//$'\n'/ | }"
		failed=$((failed + 1))
	fi
}

# run CODE TEXT NAME ARGUMENT...: the command ends with that code, and says that text
run() {
	local code=$1 text=$2 name=$3 said got
	shift 3
	said=$("$program" replay "$@" 2>&1)
	got=$?
	if [ $got -ne "$code" ]; then
		result "$name" "exit code $got, expected $code: $said"
	elif [[ $said != *"$text"* ]]; then
		result "$name" "it says: $said"
	else
		result "$name" ""
	fi
}

# line TEXT NAME ARGUMENT...: the last line, but for the width of its columns
line() {
	local text=$1 name=$2 said
	shift 2
	said=$("$program" replay "$trace" "$@" 2>&1 | tail -n 1 | tr -s ' ')
	[[ $said == "$text" ]] && said=
	result "$name" "$said"
}

# ---- results ----
line "quality 2.0 GiB 5.00 22.59 21.02 21.37 23.44 20.43" "5 %" --capacity 5%
line "quality 8.1 GiB 20.00 57.95 57.85 56.96 51.24 49.35" "20 %" --capacity 20%
line "quality 40.4 GiB 100.00 64.19 64.19 64.19 64.19 64.19" "all of it" --capacity 100%
line " raw 4.0 GiB 2.34 10.16 15.57" "raw blocks in 4 GiB" --capacity 4G --preset raw --policy lru,arc
line "quality 4.0 GiB 9.89 36.46 36.79" "compressed blocks in 4 GiB" --capacity 4G --policy lru,arc
line "quality 100 B 0.00 0.00" "less than a block" --capacity 100 --policy lru
line "quality 828.1 MiB 24.3 GiB chain-lru all 63.75 12.35 51.39 817.2 MiB 24.3 GiB 894.0 GiB 36.85 100.00 100.00" \
	"a disk that takes all" --capacity 2% --policy chain-lru --disk 60%
line "quality 828.1 MiB 24.3 GiB chain-lru 33% 30.31 12.32 18.00 817.2 MiB 13.1 GiB 290.0 GiB 11.96 32.44 47.55" \
	"a third of the writes" --capacity 2% --policy chain-lru --disk 60% --disk-budget 33%
line "quality 828.1 MiB 24.3 GiB chain-lru 1dwpd 17.20 12.32 4.88 817.2 MiB 1.1 GiB 23.5 GiB 0.97 2.63 26.98" \
	"one drive write a day" --capacity 2% --policy chain-lru --disk 60% --disk-budget 1dwpd
run 0 '"hit_percent": 22.5886' "as JSON" "$trace" --capacity 5% --policy chain-lru --json
run 0 "exit codes" "help" --help

# ---- arguments ----
run 2 "TRACE is missing: a file of JSON lines" "no trace"
run 2 "unexpected argument x" "two traces" "$trace" x
run 2 "unknown option --frobnicate" "an unknown option" "$trace" --frobnicate
run 2 "--capacity needs a value" "no value" "$trace" --capacity
run 2 "--capacity x: expected bytes, such as 256G, or part of the working set, such as 5%" "no capacity" \
	"$trace" --capacity x
run 2 "--capacity 0: expected" "capacity 0" "$trace" --capacity 0
run 2 "--capacity 5%%: expected" "two units" "$trace" --capacity 5%%
run 2 "expected 1 to 32 items separated by commas" "an empty item" "$trace" --capacity 5%,,6%
run 2 "--policy best: expected some of those that --help lists" "an unknown policy" "$trace" --policy best
run 2 "--policy all: expected some of those that --help lists, or 'all' alone" "all, and one" "$trace" --policy lru,all
run 2 "--policy all: expected" "all, and an unknown one" "$trace" --policy all,best
run 2 "--capacity 0x10G: expected" "a capacity in hexadecimal" "$trace" --capacity 0x10G
run 2 "--capacity 1000000%: expected bytes, such as 256G, or part of the working set, such as 5%, up to 10000%" \
	"a capacity beyond all" "$trace" --capacity 1000000%
run 2 "--model gpt: expected one of those that --help lists, such as llama-3.1-8b" "an unknown model" \
	"$trace" --model gpt
run 2 "--preset best: expected one of those" "an unknown preset" "$trace" --preset best
run 2 "--disk-budget without --disk" "a budget without disk" "$trace" --disk-budget 33%
run 2 "--promote x: expected always, prefix, again or never" "no promotion" "$trace" --disk 10% --promote x
run 2 "--promote without --disk" "a promotion without disk" "$trace" --promote never
run 2 "--disk-budget x: expected 'all', bytes a day" "no budget" "$trace" --disk 10% --disk-budget x

# ---- traces ----
good='{"timestamp": 5, "input_length": 600, "output_length": 1, "hash_ids": [1, 2]}'
# bad TEXT NAME LINE: after a good line and an empty one
bad() {
	printf '%s\n\n%s\n' "$good" "$3" >"$work/trace"
	run 1 "$work/trace:3: $1" "$2" "$work/trace"
}
bad "no JSON" "half a line" '{"timestamp": 6, "input_le'
bad "no JSON object" "a list" '[1]'
bad "timestamp is missing" "no timestamp" '{"input_length": 1, "output_length": 1, "hash_ids": [1]}'
bad "timestamp 4 is before that of the line before, 5" "time goes back" "${good/5/4}"
bad "timestamp is more than 10^12 ms after the first one" "a time beyond all" "${good/5/1e300}"
bad "input_length is missing, or no whole number" "a length below 0" "${good/600/-1}"
bad "output_length is missing, or no whole number" "a length that is text" "${good/1/\"1\"}"
bad "hash_ids is missing, or no list" "no blocks" "${good/hash_ids/hashes}"
bad "hash_ids has something that is no whole number" "a block that is text" "${good/2]/\"x\"]}"
run 1 "expected a line such as {\"timestamp\": 0" "what was expected" "$work/trace"
run 1 "cannot open $work/none: No such file" "no such file" "$work/none"
run 1 "cannot read $work: Is a directory" "a folder" "$work"
: >"$work/trace"
run 1 "no request with a block in it" "an empty file" "$work/trace"
printf '%s\n' "$good" >"$work/trace"
run 0 "1 requests in 0.0 min, 2 blocks, 2 distinct" "one request" "$work/trace"
run 0 "1 requests" "many writes a day" "$work/trace" --disk 10% --disk-budget 100000000000000000%
cp "$work/trace" "$work/"$'\xff'
run 0 "\"trace\": \"$work/?\"" "a name that is no UTF-8" "$work/"$'\xff' --json
run 0 "1 requests" "a disk for one request" "$work/trace" --disk 10% --disk-budget all,33%
echo "1..$number"
[ $failed -eq 0 ]

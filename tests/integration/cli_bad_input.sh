#!/bin/bash
# kvcellar tells of every bad input what was wrong, what was expected and what to do: cli_bad_input.sh [BIN].
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/cli.sh
. tests/support/cli.sh

keys=tests/data/keys.bf16 # 8 layers, 256 tokens, 2 heads, 128 channels
values=tests/data/values.bf16
model=(--model m --layers 8 --heads 2 --dim 128 --dtype bf16)
shape=("${model[@]}" --tokens 256)
files=(--keys "$keys" --values "$values")
out=(--out-keys "$work/k" --out-values "$work/v")

# ---- the command line ----
run 0 "usage: kvcellar" "help" --help
run 0 "kvcellar 0." "version" --version
run 2 "no command: expected one of: ping stats" "no command"
run 2 "unknown command pung: expected one of: ping" "an unknown command" pung
run 2 "wrong option before the command: --frobnicate: expected --json, --socket PATH or one of: ping" \
	"an unknown option before the command" --frobnicate ping
run 2 "--socket before the command needs a value" "no socket" --socket
for arguments in --help --version "ping --help" "replay --help"; do
	# shellcheck disable=SC2086
	said=$("$program" $arguments 2>&1 >/dev/full) && said="exit code 0: $said"
	[[ $said == *"cannot write to stdout"* ]] && said=
	result "$arguments onto a full disk" "$said"
done
for command in ping stats put get lookup drop drop-tenant bench; do
	run 0 "examples:" "help of $command" $command --help
done
run 2 "unknown option --frobnicate (see 'kvcellar put --help')" "an unknown option" put --frobnicate
run 2 "--tokens needs a value" "no value" put "${model[@]}" --tokens
run 2 "unexpected argument 'x'" "an argument too many" ping x
run 2 "unknown option --keys" "an option of another command" ping --keys x
run 2 "--tenant is missing: which tenant" "no tenant" drop-tenant
run 2 "--model is missing: model and revision" "no model" put
run 2 "--layers is missing" "no layers" put --model m
run 2 "--dtype is missing: element type" "no type" put --model m --layers 8 --heads 2 --dim 128 --tokens 1 "${files[@]}"
run 2 "--tokens is missing" "no tokens" put "${model[@]}" "${files[@]}"
run 2 "--keys is missing" "no keys" put "${shape[@]}" --values "$values"
run 2 "--values is missing; a cache of keys only says --value-dim 0" "no values" put "${shape[@]}" --keys "$keys"
run 2 "--value-dim 0 says that there are no values" "values too many" put "${shape[@]}" --value-dim 0 "${files[@]}"
run 2 "--sequence is missing: the name that put was given" "no sequence to get" get "${shape[@]}" "${out[@]}"
run 2 "--sequence is missing" "no sequence to look up" lookup "${shape[@]}"
run 2 "--sequence is missing" "no sequence to drop" drop "${shape[@]}"
run 2 "--out-keys is missing" "nowhere to put keys" get "${shape[@]}" --sequence s
run 2 "--out-values is missing" "nowhere to put values" get "${shape[@]}" --sequence s --out-keys "$work/k"
ln -s "$work" "$work/link"
for other in "$work/k" "$work/./k" "$work/link/k"; do
	run 2 "--out-keys $work/k and --out-values $other are the same file, expected two" "keys and values into $other" \
		get "${shape[@]}" --sequence s --out-keys "$work/k" --out-values "$other"
done
said=$(absolute=$(realpath "$program") && cd "$work" && "$absolute" get "${shape[@]}" --sequence s --out-keys k --out-values ./k 2>&1)
[[ $said == *"--out-keys k and --out-values ./k are the same file"* ]] && said=
result "keys and values into one file of the working directory" "$said"
rm "$work/link"

# ---- values of options ----
run 2 "--layers 0: expected a number from 1 to 512" "no layers" put "${shape[@]}" --layers 0 "${files[@]}"
run 2 "--heads 257: expected a number from 1 to 256" "too many heads" put "${shape[@]}" --heads 257 "${files[@]}"
run 2 "--tokens -1: expected a number" "a negative number" put "${model[@]}" --tokens -1 "${files[@]}"
run 2 "--tokens 12k: expected a number" "a number with a unit" put "${model[@]}" --tokens 12k "${files[@]}"
run 2 "--tokens 99999999999999999999: expected" "a huge number" put "${model[@]}" --tokens 99999999999999999999 "${files[@]}"
run 2 "--block-tokens 5000: expected a number from 1 to 4096" "a huge block" put "${shape[@]}" --block-tokens 5000 "${files[@]}"
run 2 "--dim 100 is no multiple of 16: pad the heads" "an odd dim" put "${shape[@]}" --dim 100 "${files[@]}"
run 2 "--value-dim 40 is no multiple of 16" "an odd value dim" put "${shape[@]}" --value-dim 40 "${files[@]}"
run 2 "--dtype int8: expected one of: bf16, fp16, fp32" "an unknown type" put "${shape[@]}" --dtype int8 "${files[@]}"
run 2 "--ack tape: expected one of: ram, disk" "an unknown ack" put "${shape[@]}" --ack tape "${files[@]}"
for time in "" 10 10x 1.5s -1s +1s 0s 50d 1000000000000000000000s ms; do
	run 2 "--ttl $time: expected a time such as 500ms, 30s, 10m, 2h or 1d, at most 49d" "a time to live of '$time'" \
		put "${shape[@]}" --ttl "$time" "${files[@]}"
done
run 2 "--priority urgent: expected one of: low, normal, high" "an unknown priority" put "${shape[@]}" --priority urgent "${files[@]}"
run 2 "--ephemeral with --ack disk: expected --ack ram" "never on disk, and on disk" put "${shape[@]}" --ephemeral --ack disk "${files[@]}"
run 2 "--ttl with --ack disk: expected --ack ram" "an end, and durable" put "${shape[@]}" --ttl 1m --ack disk "${files[@]}"
run 2 "unknown option --ttl" "a time to live of a get" get "${shape[@]}" --ttl 1m --sequence s "${out[@]}"
run 2 "unknown option --prefetch" "a get that reads ahead" get "${shape[@]}" --prefetch --sequence s "${out[@]}"
run 2 "--plane air: expected one of: shm, inline" "an unknown plane" put "${shape[@]}" --plane air "${files[@]}"
run 2 "--preset best: expected one of: quality, compact" "an unknown preset" put "${shape[@]}" --preset best "${files[@]}"
run 2 "--shard 2: expected less than --shards 2" "a shard too many" put "${shape[@]}" --shard 2 --shards 2 "${files[@]}"
run 2 "--key-codec and --value-codec go together" "half a codec" put "${shape[@]}" --key-codec 4,g32 "${files[@]}"
for spec in 9,g32 4,g48 4,g32,fast 4,clip=2 "" "," 4x 4294967300,g32 4,g4294967328 +4 "4,g 32" -4294967292; do
	run 2 "--key-codec" "codec '$spec'" put "${shape[@]}" --key-codec "$spec" --value-codec 2,g64 "${files[@]}"
done
run 2 "--deadline-ms 0: expected" "no time" ping --deadline-ms 0
run 2 "--layers, --heads and --dim go together" "half a shape" bench --layers 8

# ---- files ----
run 1 "cannot read keys file $work/none: No such file" "a missing file" put "${shape[@]}" --keys "$work/none" --values "$values"
run 1 "$work is no regular file" "a folder" put "${shape[@]}" --keys "$work" --values "$values"
run 1 "is 1048576 bytes long, expected 2097152 = 8 layers x 512 tokens x 2 heads x 128 dim x 2 bytes" \
	"a file too short" put "${model[@]}" --tokens 512 "${files[@]}"
run 1 "expected 524288 = 8 layers x 128 tokens" "a file too long" put "${model[@]}" --tokens 128 "${files[@]}"
run 1 "expected 2097152 = 8 layers x 256 tokens x 2 heads x 128 dim x 4 bytes" "another type" put "${shape[@]}" --dtype fp32 "${files[@]}"
run 1 "x 64 dim x 2 bytes" "another value dim" put "${shape[@]}" --value-dim 64 "${files[@]}"
run 1 "cannot write $work/none/k: No such file" "an output that cannot be" \
	get "${shape[@]}" --sequence s --out-keys "$work/none/k" --out-values "$work/v"
mkfifo "$work/pipe"
run 1 "$work/pipe is no regular file" "a pipe that nobody writes" put "${shape[@]}" --keys "$work/pipe" --values "$values"
mkdir "$work/folder"
for other in "$work/folder" "$work/pipe"; do
	run 1 "cannot write $other: it is no regular file; expected one, or a name that is free" "an output into $other" \
		get "${shape[@]}" --sequence s --out-keys "$work/k" --out-values "$other"
done
[ -p "$work/pipe" ] && said= || said="it is gone"
result "a pipe stays a pipe" "$said"
rm "$work/pipe"
rmdir "$work/folder"
result "nothing is left behind" "$(ls "$work")"

# ---- no daemon ----
run 1 "no daemon at $work/s (No such file or directory): start kvcellard, or name its socket with --socket or KVCELLAR_SOCKET" \
	"no daemon" ping
run 1 "no daemon at $work/other" "no daemon at another socket" --socket "$work/other" stats
long=$(printf 'x%.0s' {1..200})
run 1 "a Unix socket's has at most 107" "a long path" ping --socket "/$long"
run 1 "no daemon at" "a get without daemon" get "${shape[@]}" --sequence s "${out[@]}"
result "no file of a get that failed" "$(ls "$work")"

# ---- a daemon ----
daemon_start
run 3 "only 0 of 256 tokens are stored, no files written" "nothing stored" get "${shape[@]}" --sequence s "${out[@]}"
result "no file of a get that found nothing" "$(others s s.lock daemon.log)"
run 3 "prefix_blocks     0" "a look-up of nothing" lookup "${shape[@]}" --sequence s
run 1 "tenant" "a tenant with a slash" put "${shape[@]}" --tenant a/b "${files[@]}"
run 1 "tenant" "a tenant with a newline" put "${shape[@]}" --tenant $'a\nb' "${files[@]}"
run 1 "UNSUPPORTED" "disk acknowledgement without a disk" put "${shape[@]}" --ack disk "${files[@]}"
run 0 "ratio" "a good put" put "${shape[@]}" --sequence s "${files[@]}"
run 0 "tokens" "a good get" get "${shape[@]}" --sequence s "${out[@]}"
run 0 '"sequence": "a?b"' "a name that is no UTF-8" put "${shape[@]}" --sequence $'a\xffb' "${files[@]}" --json
run 3 "prefix_blocks     0" "another such name is another sequence" lookup "${shape[@]}" --sequence $'a\xfeb'
if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
	chmod 711 "$work"
	said=$(setpriv --reuid=65534 --clear-groups "$program" ping 2>&1)
	[[ $said == *"not allowed to connect to $work/s (Permission denied)"* ]] && said=
	result "no right to the socket" "$said"
	daemon_stop
	daemon_start --socket-mode 0666
	said=$(setpriv --reuid=1 --clear-groups "$program" ping 2>&1)
	[[ $said == *"took no connection"*"this user may not be allowed (allow-uids, allow-gids)"* ]] && said=
	result "a user who is not let in" "$said"
	daemon_stop
	daemon_start --socket-mode 0666 --allow-uids 1
	said=$(setpriv --reuid=1 --clear-groups "$program" stats 2>&1) || said="$? $said"
	[[ $said == "3 "*"counters are told to root and the daemon's own user only"* ]] && said=
	result "counters for who may not see them" "$said"
fi
daemon_stop
run 1 "start kvcellard" "the daemon is gone" stats
finish

#!/bin/bash
# kvcellar does its work, against a daemon: cli.sh [BIN]. Bad input is in cli_bad_input.sh.
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

# value NAME JSON
value() {
	python3 -c 'import json, sys; print(json.loads(sys.argv[2])[sys.argv[1]])' "$1" "$2"
}

# same NAME A B
same() {
	result "$1" "$(cmp "$2" "$3" 2>&1)"
}

# is NAME EXPECTED GOT
is() {
	[ "$2" = "$3" ] && result "$1" "" || result "$1" "expected $2, got $3"
}

# The first $1 tokens of each layer of file $2: a row is 512 bytes, a layer 256 rows.
prefix() {
	python3 - "$@" <<'PY'
import sys
tokens, data = int(sys.argv[1]), open(sys.argv[2], "rb").read()
sys.stdout.buffer.write(b"".join(data[layer * 131072:layer * 131072 + tokens * 512] for layer in range(8)))
PY
}

daemon_start

# ---- raw blocks come back bit for bit, on both planes, in any block size ----
for plane in shm inline; do
	for tokens in 128 96 256 7; do
		id=(--sequence "$plane-$tokens" --preset raw --plane "$plane" --block-tokens "$tokens")
		run 0 "gb_per_s" "put, $plane, blocks of $tokens" put "${shape[@]}" "${id[@]}" "${files[@]}"
		run 0 "gb_per_s" "get, $plane, blocks of $tokens" get "${shape[@]}" "${id[@]}" "${out[@]}"
		same "keys, $plane, blocks of $tokens" "$work/k" $keys
		same "values, $plane, blocks of $tokens" "$work/v" $values
	done
done

# ---- a longer get than what is stored, and a shorter one ----
head -c 1048576 $keys >"$work/long"
cat $keys >>"$work/long" # 8 layers of 512 tokens: only the size matters
raw=(--sequence shm-128 --preset raw)
run 3 "only 128 of 200 tokens are stored: the files hold those" "200 tokens of 256" \
	get "${model[@]}" --tokens 200 "${raw[@]}" "${out[@]}"
prefix 128 $keys >"$work/expected"
same "keys of the prefix" "$work/k" "$work/expected"
prefix 128 $values >"$work/expected"
same "values of the prefix" "$work/v" "$work/expected"
run 0 "tokens" "128 tokens of 256" get "${model[@]}" --tokens 128 "${raw[@]}" "${out[@]}"
same "values of the first block" "$work/v" "$work/expected"
run 3 "only 256 of 512 tokens" "512 tokens of 256" get "${model[@]}" --tokens 512 "${raw[@]}" "${out[@]}"
same "keys of all that is there" "$work/k" $keys
is "rights of the files" "$(printf '%o' $((0666 & ~$(umask))))" "$(stat -c %a "$work/k")"

# ---- the default: a name from the contents, a codec; and the codec is the same that `codec` applies ----
said=$("$program" --json put "${shape[@]}" "${files[@]}")
hash=$(value sequence "$said")
is "the name is a hash" 64 ${#hash}
is "its blocks" 2 "$(value blocks_stored "$said")"
is "the codec's ratio" 4.1 "$(printf '%.1f' "$(value ratio "$said")")"
run 0 "from_ram" "get by hash" get "${shape[@]}" --sequence "$hash" "${out[@]}"
for kind in keys values; do
	coding=(--bits 4 --group 32 --rotate 1)
	[ $kind = values ] && coding=(--bits 2 --group 64 --rotate 0)
	"$program" codec --in tests/data/$kind.bf16 "${model[@]:2}" --tokens 256 "${coding[@]}" --out "$work/$kind" >/dev/null
	same "$kind are what the codec restores" "$work/${kind:0:1}" "$work/$kind"
done
run 0 "blocks_stored" "put again: first writer wins" put "${shape[@]}" "${files[@]}"

# ---- own codec settings are another namespace; key-only caches ----
own=(--key-codec "8,g32,rotate,clip=1" --value-codec raw --sequence own)
run 3 "only 0 of" "another codec finds nothing" get "${shape[@]}" --key-codec 4,g32 --value-codec 4,g32 --sequence "$hash" "${out[@]}"
run 0 "ratio" "put with own settings" put "${shape[@]}" "${own[@]}" "${files[@]}"
run 0 "tokens" "get with own settings" get "${shape[@]}" "${own[@]}" "${out[@]}"
same "raw values" "$work/v" $values
run 0 "ratio" "put of keys only" put "${shape[@]}" --value-dim 0 --preset raw --sequence keys --keys $keys
run 0 "tokens" "get of keys only" get "${shape[@]}" --value-dim 0 --preset raw --sequence keys --out-keys "$work/k"
same "keys only" "$work/k" $keys

# ---- look-up, drop, ping, stats, bench ----
said=$("$program" lookup "${shape[@]}" --sequence "$hash" --json)
is "look-up: tokens" 256 "$(value tokens "$said")"
is "look-up: in RAM" 2 "$(value in_ram "$said")"
said=$("$program" drop "${shape[@]}" --sequence "$hash" --json)
is "dropped" 2 "$(value dropped "$said")"
run 3 "absent" "look-up of what was dropped" lookup "${shape[@]}" --sequence "$hash"
run 3 "no files written" "get of what was dropped" get "${shape[@]}" --sequence "$hash" "${out[@]}"
is "ping" 1 "$(value protocol "$("$program" ping --json)")"
said=$("$program" stats --json)
result "stats has many" "$(python3 -c 'import json, sys; print("" if len(json.loads(sys.argv[1])) > 10 else "too few")' "$said")"
is "stats of a tenant" 0 "$(value tenant.blocks "$("$program" stats --tenant nobody --json)")"
said=$("$program" put "${shape[@]}" --tenant other "${files[@]}" --json)
is "put of a tenant" 2 "$(value tenant.blocks "$("$program" stats --tenant other --json)")"
said=$("$program" drop-tenant --tenant other --json)
is "drop of a tenant" 2 "$(value dropped "$said")"
is "nothing is left of it" 0 "$(value tenant.blocks "$("$program" stats --tenant other --json)")"
for plane in shm inline; do
	said=$("$program" bench --layers 4 --heads 2 --dim 64 --blocks 24 --lookups 500 --batch 3 --plane $plane --json)
	is "bench, $plane" 24 "$(value blocks "$said")"
done
said=$("$program" bench --layers 2 --heads 1 --dim 64 --dtype fp16 --blocks 4 --lookups 100 --json)
is "bench drops its blocks" 0 "$(value dropped "$("$program" drop --model kvcellar-bench --layers 2 --heads 1 --dim 64 \
	--dtype fp16 --tokens 512 --sequence none --json)")"
# ---- hints: what ends is gone, by itself and at a restart; what is ephemeral is not written ----
gone() { # SEQUENCE: it ends by itself
	while "$program" lookup "${shape[@]}" --sequence "$1" >/dev/null; do :; done
	result "$1 is gone" ""
}
on_disk() { # SEQUENCE: how many of its blocks rest on disk alone
	value on_disk "$("$program" lookup "${shape[@]}" --sequence "$1" --json)"
}
for plane in shm inline; do
	run 0 "blocks_stored" "put with a time to live, $plane" \
		put "${shape[@]}" --plane $plane --sequence "soon, $plane" --ttl 200ms "${files[@]}"
	gone "soon, $plane"
	run 3 "no files written" "get of what ended, $plane" get "${shape[@]}" --sequence "soon, $plane" "${out[@]}"
	is "nothing of it is left, $plane" 0 "$(value cache.expiring "$("$program" stats --json)")"
done
daemon_stop
daemon_start --disk "$work/disk" --disk-size 256M
run 0 "ratio" "put with an end" put "${shape[@]}" --sequence later --ttl 1d --priority high "${files[@]}"
run 0 "ratio" "put of what is ephemeral" put "${shape[@]}" --sequence never --ephemeral --priority low "${files[@]}"
run 0 "ratio" "put of what stays" put "${shape[@]}" --sequence stays "${files[@]}"
run 0 "ratio" "a later put takes the end back" put "${shape[@]}" --sequence both --ttl 1d "${files[@]}"
run 0 "ratio" "and asks for the disk" put "${shape[@]}" --sequence both --ack disk "${files[@]}"
run 0 "tokens" "get of what has an end" get "${shape[@]}" --sequence later "${out[@]}"
run 0 "tokens" "get of what is ephemeral" get "${shape[@]}" --sequence never "${out[@]}"
daemon_stop
daemon_start --disk "$work/disk" --disk-size 256M
is "what stays is on disk" 2 "$(on_disk stays)"
is "what was asked for twice, too" 2 "$(on_disk both)"
run 3 "absent            2" "what has an end is not" lookup "${shape[@]}" --sequence later
run 3 "absent            2" "what is ephemeral is not" lookup "${shape[@]}" --sequence never

# ---- a look-up that reads ahead ----
run 0 "on_disk           2" "a look-up moves nothing" lookup "${shape[@]}" --sequence stays
run 0 "on_disk           2" "a look-up that reads ahead" lookup "${shape[@]}" --sequence stays --prefetch
while [ "$(on_disk stays)" -ne 0 ]; do :; done
is "what was read ahead is in RAM" 2 "$(value from_ram "$("$program" get "${shape[@]}" --sequence stays "${out[@]}" --json)")"
is "what was not is on disk" 2 "$(value from_disk "$("$program" get "${shape[@]}" --sequence both "${out[@]}" --json)")"
result "no file but those asked for" "$(others k v s s.lock disk daemon.log long expected keys values)"
finish

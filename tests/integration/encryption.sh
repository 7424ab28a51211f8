#!/bin/bash
# The disk tier under a key, from outside: encryption.sh [BIN]. What is on disk is searched byte by byte.
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/support/cli.sh
. tests/support/cli.sh

shape=(--model m --layers 8 --heads 2 --dim 128 --dtype bf16 --tokens 256 --preset raw)
files=(--keys tests/data/keys.bf16 --values tests/data/values.bf16 --ack disk)
out=(--out-keys "$work/k" --out-values "$work/v")
disk=$work/disk

# start OPTION...: the disk tier with them
start() {
	daemon_start --disk "$disk" --disk-size 64M "$@"
}

daemon_kill() {
	kill -9 "$daemon_pid"
	wait "$daemon_pid" 2>/dev/null
	daemon_pid=
}

# refused NAME TEXT OPTION...: no start, with that text
refused() {
	local name=$1 text=$2 said got
	shift 2
	said=$(timeout 60 "$bin/kvcellard" --socket "$KVCELLAR_SOCKET" --ram 64M --disk "$disk" --disk-size 64M "$@" 2>&1)
	got=$?
	if [ $got -eq 0 ] || [ $got -eq 124 ]; then
		result "$name" "it starts, or hangs: exit code $got"
	elif [[ $said != *"$text"* ]]; then
		result "$name" "'$text' is not in: $said"
	else
		result "$name" ""
	fi
}

# shows: prints yes if 64 bytes of the middle of the keys, as they were put, stand in a file of the disk tier
shows() {
	python3 - "$disk" tests/data/keys.bf16 <<'PY'
import os, sys
data = open(sys.argv[2], "rb").read()
part = data[len(data) // 2:len(data) // 2 + 64]
found = any(part in open(os.path.join(d, f), "rb").read() for d, _, fs in os.walk(sys.argv[1]) for f in fs)
print("yes" if found else "no")
PY
}

# wrapped: the wrapped data keys of all tenants, in hex; a row has 96 bytes behind 256 of the head
wrapped() {
	python3 - "$disk" <<'PY'
import struct, sys
rings = [open(f"{sys.argv[1]}/keyring.{i}", "rb").read() for i in (0, 1)]
ring = max(rings, key=lambda r: struct.unpack_from("<Q", r, 48))
for i in range(struct.unpack_from("<I", ring, 12)[0]):
    row = ring[256 + 96 * i:256 + 96 * (i + 1)]
    if struct.unpack_from("<I", row, 20)[0] & 1:
        print(row[24:84].hex())
PY
}

# files_with HEX: how many files have these bytes in them
files_with() {
	python3 - "$disk" "$1" <<'PY'
import os, sys
part = bytes.fromhex(sys.argv[2])
print(sum(part in open(os.path.join(d, f), "rb").read() for d, _, fs in os.walk(sys.argv[1]) for f in fs))
PY
}

# is NAME EXPECTED GOT
is() {
	[ "$2" = "$3" ] && result "$1" "" || result "$1" "expected $2, got $3"
}

# restored NAME TENANT
restored() {
	run 0 "gb_per_s" "$1" get "${shape[@]}" --tenant "$2" --sequence s "${out[@]}"
	result "$1, the same bytes" "$(cmp "$work/k" tests/data/keys.bf16 2>&1 && cmp "$work/v" tests/data/values.bf16 2>&1)"
}

umask 077
head -c 32 /dev/urandom >"$work/key"
head -c 32 /dev/urandom >"$work/other"
head -c 31 /dev/urandom >"$work/short"

# ---- without a key it shows, with one it does not ----
start
run 0 "gb_per_s" "put, plain" put "${shape[@]}" --tenant a --sequence s "${files[@]}"
daemon_stop
is "a plain directory shows what was put" yes "$(shows)"
rm -rf "$disk"
start --disk-key "$work/key"
run 0 "gb_per_s" "put, encrypted" put "${shape[@]}" --tenant a --sequence s "${files[@]}"
run 0 "gb_per_s" "put, encrypted, of another tenant" put "${shape[@]}" --tenant b --sequence s "${files[@]}"
daemon_stop
is "an encrypted one does not" no "$(shows)"

# ---- the right key, no key, others ----
start --disk-key "$work/key"
restored "after a restart" a
daemon_kill
refused "no key" "is encrypted: give its key with disk-key"
refused "another key" "the key does not open $disk" --disk-key "$work/other"
refused "a short key" "must hold 32 bytes or 64 hex digits" --disk-key "$work/short"
refused "a missing file" "No such file" --disk-key "$work/none"
chmod 644 "$work/other"
refused "a file that others can read" "chmod go=" --disk-key "$work/other"
refused "a credential without systemd" "LoadCredential=" --disk-key credential:key
python3 -c 'import sys; sys.stdout.write(open(sys.argv[1], "rb").read().hex() + "\n")' "$work/key" >"$work/hex"
CREDENTIALS_DIRECTORY=$work start --disk-key credential:hex
restored "after kill -9 and all of that, by a credential in hex" a

# ---- a tenant is dropped ----
mapfile -t keys < <(wrapped)
is "two tenants have a key" 2 "${#keys[@]}"
run 0 "" "drop a tenant" drop-tenant --tenant a
daemon_kill
left=$(wrapped)
is "one of them is left" 1 "$(wc -l <<<"$left")"
for key in "${keys[@]}"; do
	if [ "$key" = "$left" ]; then
		is "its key is in both keyrings" 2 "$(files_with "$key")"
	else
		is "the dropped key is in no file" 0 "$(files_with "$key")"
	fi
done
start --disk-key "$work/key" --verify-on-start
run 3 "" "nothing of it is found after kill -9" get "${shape[@]}" --tenant a --sequence s "${out[@]}"
restored "the other tenant has all" b
run 0 "gb_per_s" "it is welcome again" put "${shape[@]}" --tenant a --sequence s "${files[@]}"
daemon_kill
start --disk-key "$work/key"
restored "what it has put since" a
finish

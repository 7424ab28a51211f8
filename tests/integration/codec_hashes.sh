#!/bin/bash
# Restored files must have their sums, at every SIMD level that this processor has: codec_hashes.sh [BIN [DIR]].
#
# BIN is the folder of the program kvcellar ($KVC_BIN). DIR holds keys.bf16 and values.bf16, C order
# [8 layers][tokens][2 heads][128], of 256 tokens (tests/data, the default) or of the 2048 of docs/codec.md.
set -u
cd "$(dirname "$0")/../.." || exit 1

program=${1:-${KVC_BIN:-build/bin}}/kvcellar
dir=${2:-tests/data}

# File, tokens of a block, bits, group, rotate; NMSE and gain of 2048 tokens; sums of 2048 and of 256 tokens.
mapfile -t table <<'TABLE'
keys 128 4 32 1 .002478 .99998 694a71bb80696b300878e8cfbc402d44e3729a0ee870acb1fcdaee2db593e00a ef5edce6c75a75b8d9b67e07e52f756ffd8abeb125f0b4bf2494cd22865d563f
values 128 2 64 0 .116928 1.00019 9bef39ab8450031297c8ad484ff22ded707cefacb94fd9a681c1848b2e8c445f 582484040ac419ccbf0b19907b632d916c1ea0fcfc6089f0558b9bb4ece7355e
keys 128 4 128 1 .004003 .99997 1f4e6a5f5e05840cae8a67a207f4a3f3fb53092e9b35e06ef8177fc72f837448 2682600bde713aa5016f7477b4b9f5be9d274006cc644cc8d6851b0f64f07067
values 128 2 128 1 .124327 .99996 a490a0a24fe47ceba08491ceeb0cb612185af07d9baa781c308f5a2ecd5cd466 0ca3e317de616dd4855442158df77931fb3f0ce202bc9822d631b6429e8bd7d9
keys 100 4 32 1 .002489 1.00000 6b00cdaecaf94a6b19e7e2ae1ee866a1ca395ba9c471d1f808970c10fd4734b1 f309d852462041e20b4311639525714085be6bdf70c6048e8614e9ecae882989
values 100 2 64 0 .116579 1.00019 9b3b353ef4902857b2dacde1f665e70b9f53b0ab1da1096be84d2cfdd865c189 66e1374d44b7c10f0560e03869d1635a2dfca021b9e07877bebe9e76a68166a1
keys 16 4 32 1 .005497 .99999 d88377120d005d39fec7d9c07feea02abddf3844830bbb55a431eb142003a316 2083f51ed6c4267989a4305af79758f97051b68d85be023a9e9cb9ad93fce5c6
values 16 2 64 0 .127384 1.00006 2717e078e670fe7bb97c55f82ce267a596ccf09c857101a42949e58b000dac68 33ad64af3d923285cd104a20b96c4de83ff0ede2c0c840fe52b279132258ffad
keys 128 2 32 1 .047472 .99981 54c8df46d7d7d9a4a7790406cf2fae1149909f039f32d5dccbd394bcbce055c5 f46d689e4809b302ad3386c414350bcaa246c935f52d0174171e7b3001d6cc16
keys 128 3 64 1 .013330 .99986 ba8b18699b825afbcb0811bbb499b6ee69dc2acd78283c7096f916313367f1a0 d7c980a88f832a1b663484e21dfa638e4791a861cdf54643e3f6493fd0d4e85c
keys 128 8 32 1 .000010 1.00000 0ca73f4e195aee5b1f93922af7760bc9bec09953db8ea1d1b9c7c10718bc3254 05ff9ac7f7892d33fafea155aee4f1b1ee9c3fdb4070159e99fb9301ffc83db7
values 128 4 64 0 .006957 .99999 95c5e8b2ff3c6076cf6d46356b0c48ab3208d769feb89c455f7841718a809d40 70820601254885db960ec3f50509ab96447e1c5670cf2308a7258c0f5d0718db
TABLE

size=$(stat -c %s "$dir/keys.bf16") || exit 1
tokens=$((size / 4096))
if [ "$tokens" != 256 ] && [ "$tokens" != 2048 ]; then
	echo "$dir/keys.bf16 has $size bytes, expected 1048576 (256 tokens) or 8388608 (2048 tokens)" >&2
	exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# restore LEVEL FILE BLOCK BITS GROUP ROTATE: writes $work/out, prints the results as JSON
restore() {
	"$program" codec --simd "$1" --in "$dir/$2.bf16" --out "$work/out" --layers 8 --tokens "$tokens" --heads 2 \
		--dim 128 --dtype bf16 --block-tokens "$3" --bits "$4" --group "$5" --centre 1 --rotate "$6" --gain 1 \
		--json
}

# near JSON NMSE GAIN: as printed, to the last digit
near() {
	python3 -c '
import json, sys
got = json.loads(sys.argv[1])
sys.exit(abs(got["nmse"] - float(sys.argv[2])) > 6e-7 or abs(got["gain"] - float(sys.argv[3])) > 6e-6)
' "$@"
}

# check LEVEL FILE BLOCK BITS GROUP ROTATE NMSE GAIN SUM2048 SUM256: says what is wrong, if anything
check() {
	local got sum=${10}

	[ "$tokens" = 2048 ] && sum=$9
	if ! got=$(restore "${@:1:6}"); then
		echo "the command failed"
	elif [ "$tokens" = 2048 ] && ! near "$got" "$7" "$8"; then
		echo "nmse and gain are not $7 and $8: $got"
	elif ! echo "$sum  $work/out" | sha256sum --check --status; then
		echo "the sum is not $sum"
	fi
}

levels=(scalar avx2 avx512)
echo "1..$((${#table[@]} * ${#levels[@]}))"
number=0
failed=0
for level in "${levels[@]}"; do
	missing=
	grep -qw "${level/avx512/avx512_vnni}" /proc/cpuinfo || [ "$level" = scalar ] || missing="no $level here"
	for row in "${table[@]}"; do
		read -ra fields <<<"$row"
		number=$((number + 1))
		name="$level ${fields[*]:0:5}"
		if [ -n "$missing" ]; then
			echo "ok $number - $name # SKIP $missing"
			continue
		fi
		wrong=$(check "$level" "${fields[@]}")
		if [ -n "$wrong" ]; then
			echo "not ok $number - $name: $wrong"
			failed=$((failed + 1))
		else
			echo "ok $number - $name"
		fi
	done
done
[ "$failed" -eq 0 ]

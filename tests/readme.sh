#!/bin/bash
# Runs every command of the README as written (TAP): each fenced block marked `sh` is one script, in order, in a shell that
# stops at the first failure. The C blocks must be the examples that the tests compile.
set -u
cd "$(dirname "$0")/.." || exit 1

tmp=$(mktemp -d "${TMPDIR:-/var/tmp}/kvc-readme-XXXXXX") || exit 1
trap 'rm -rf "$tmp" /tmp/kvcellar-try /tmp/kvcellar-try.sock* /tmp/k.bf16 /tmp/v.bf16 /tmp/keys-restored.bf16' EXIT
trap 'exit 130' INT TERM
failures=0
number=0

# result STATUS NAME
result() {
	number=$((number + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $number - $2"
	else
		echo "not ok $number - $2"
		failures=$((failures + 1))
	fi
}

# Blocks marked with a language, each into its own file: sh.1, sh.2, ..., c.1
awk -v dir="$tmp" '
	/^```/ { if (file) { file = "" } else { lang = substr($0, 4); if (lang != "") file = dir "/" lang "." ++count[lang] } next }
	file { print > file }' README.md

scripts=$(find "$tmp" -name 'sh.*' | sort -V)
if [ -z "$scripts" ]; then
	result 1 'the README has shell blocks'
fi
for script in $scripts; do
	timeout 300 bash -e -o pipefail "$script" >"$script.out" 2>&1
	status=$?
	[ $status -eq 0 ] || sed 's/^/# /' "$script.out"
	result $status "block $(basename "$script") runs as written"
done
cmp "$tmp/c.1" client/examples/quickstart.c
result $? 'the C block is the example'
cmp "$tmp/c.2" client/examples/paged_pool.c
result $? 'the second C block is the example of a pool'
cmp -s <(build/bin/kvcellar codec --in tests/data/keys.bf16 --out "$tmp/keys" --layers 8 --tokens 256 --heads 2 --dim 128 \
	--dtype bf16 --block-tokens 128 --bits 4 --group 32 --centre 1 --rotate 1 --gain 1 >/dev/null && cat "$tmp/keys") /tmp/k.bf16
result $? 'what get restored is what the codec alone restores'
echo "1..$number"
[ $failures -eq 0 ]

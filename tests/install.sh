#!/bin/bash
# make install into an empty folder, use what is there as a stranger would, make uninstall: TAP.
#
# The library's example is compiled by what pkg-config says, against the installed headers only, in C and C++, and
# run against an installed daemon.
set -u
cd "$(dirname "$0")/.." || exit 1

tmp=$(mktemp -d "${TMPDIR:-/var/tmp}/kvc-install-XXXXXX") || exit 1
root=$tmp/root
prefix=/usr/local
daemon=
number=0
failures=0

cleanup() {
	if [ -n "$daemon" ]; then
		kill "$daemon" 2>/dev/null
		wait "$daemon" 2>/dev/null
	fi
	rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# check NAME COMMAND...: one test.
check() {
	local name=$1 output
	shift
	number=$((number + 1))
	if output=$("$@" 2>&1); then
		echo "ok $number - $name"
	else
		echo "not ok $number - $name"
		failures=$((failures + 1))
	fi
	[ -z "$output" ] || echo "# ${output//$'\n'/$'\n# '}"
}

installed() {
	local path missing=0
	for path in bin/kvcellard bin/kvcellar lib/libkvcellar.a lib/libkvcellar.so lib/pkgconfig/kvcellar.pc \
		include/kvcellar/kvcellar.h include/kvcellar/kvc_status.h \
		lib/systemd/system/kvcellar.service etc/kvcellar/kvcellard.conf; do
		if [ ! -e "$root$prefix/$path" ]; then
			echo "$prefix/$path is not there"
			missing=1
		fi
	done
	return $missing
}

outside() {
	# Nothing besides the prefix: a staged installation must not touch the system.
	[ "$(ls "$root")" = "${prefix:1:3}" ] || ls "$root"
}

flags() {
	PKG_CONFIG_PATH=$root$prefix/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$root pkg-config "$@" kvcellar
}

compile() {
	local compiler=$1 source=$2 out=$3 cflags libs
	cflags=$(flags --cflags) || return 1
	libs=$(flags --libs) || return 1
	# shellcheck disable=SC2086 # flags are words
	$compiler -Wall -Wextra -Werror $cflags "$source" $libs -o "$out"
}

answers() {
	for _ in $(seq 500); do
		if "$root$prefix/bin/kvcellar" --socket "$tmp/socket" ping >/dev/null 2>&1; then
			return 0
		fi
		sleep 0.02
	done
	cat "$tmp/log"
	return 1
}

run_example() {
	LD_LIBRARY_PATH=$root$prefix/lib KVCELLAR_SOCKET=$tmp/socket timeout 60 "$tmp/example"
}

left() {
	local files
	files=$(find "$root" ! -type d)
	[ -z "$files" ] || { echo "$files" && return 1; }
	# Folders of its own must be gone too; those that any package puts things into may stay.
	files=$(find "$root" -type d -iname '*kvcellar*')
	[ -z "$files" ] || { echo "$files" && return 1; }
}

echo "1..12"
check "make install" make --no-print-directory install DESTDIR="$root" PREFIX=$prefix
check "everything is there" installed
check "nothing is outside of the prefix" outside
check "the daemon says its version" "$root$prefix/bin/kvcellard" --version
check "pkg-config knows the library" flags --modversion
cat >"$tmp/version.cc" <<'CODE'
#include <kvcellar.h>
#include <cstdio>
int main() { return std::puts(kvc_version()) < 0; }
CODE
check "a C++ program compiles" compile "${CXX:-c++}" "$tmp/version.cc" "$tmp/version"
check "the example compiles" compile "${CC:-cc} -std=c11" client/examples/quickstart.c "$tmp/example"
check "the example of a pool compiles" compile "${CC:-cc} -std=c11 -shared -fPIC" client/examples/paged_pool.c "$tmp/pool.so"
# Not inside of check: its pipe would stay open as long as the daemon lives.
"$root$prefix/bin/kvcellard" --socket "$tmp/socket" --ram 64M >"$tmp/log" 2>&1 &
daemon=$!
check "the installed daemon starts" answers
check "the example runs" run_example
kill "$daemon"
wait "$daemon"
check "the daemon stops" [ $? -eq 0 ]
daemon=
make --no-print-directory uninstall DESTDIR="$root" PREFIX=$prefix >/dev/null
check "make uninstall leaves nothing" left
[ $failures -eq 0 ]

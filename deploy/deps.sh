#!/bin/sh
# Install the packages that building and testing need, on Debian 12 and Ubuntu 24.04; with the argument `bench` also
# what the benchmarks compare with. Does nothing, and needs no network, when all are there. Elsewhere it says what
# is missing.
set -eu

packages_common="build-essential pkg-config clang clang-format protobuf-c-compiler \
protobuf-compiler libprotobuf-c-dev libuv1-dev liburing-dev libxxhash-dev libsodium-dev libssl-dev libjansson-dev \
libsmartcols-dev libinih-dev libsystemd-dev libcmocka-dev python3 universal-ctags strace"

packages_bench="redis-server fio"

libraries="libprotobuf-c libuv liburing libxxhash libsodium libcrypto jansson smartcols inih libsystemd cmocka"
tools="cc make pkg-config clang clang-format protoc-c python3"

say() {
	echo "deps: $*" >&2
}

# The distribution's packages, empty if it is not known here.
packages() {
	[ -r /etc/os-release ] || return 0
	# shellcheck disable=SC1091
	. /etc/os-release
	case "${ID:-} ${VERSION_ID:-}" in
	"debian 12") echo "$packages_common libclang-rt-14-dev" ;;
	"ubuntu 24.04") echo "$packages_common libclang-rt-18-dev" ;;
	esac
}

installed() {
	[ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null | cut -c1-2)" = ii ]
}

missing_packages() {
	for package in $1; do
		installed "$package" || printf '%s ' "$package"
	done
}

# For distributions whose package names are not known here.
missing_things() {
	for tool in $tools; do
		command -v "$tool" >/dev/null || printf '%s ' "$tool"
	done
	command -v pkg-config >/dev/null || return 0
	for library in $libraries; do
		pkg-config --exists "$library" || printf '%s(pkg-config) ' "$library"
	done
}

install_packages() {
	as_root=
	if [ "$(id -u)" -ne 0 ]; then
		if ! command -v sudo >/dev/null; then
			say "not root, and there is no sudo: as root run: apt-get install $1"
			exit 1
		fi
		as_root=sudo
	fi
	say "installing: $1"
	$as_root apt-get update -qq
	# shellcheck disable=SC2086
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $1
}

wanted=$(packages)
if [ -n "$wanted" ]; then
	[ "${1:-}" != bench ] || wanted="$wanted $packages_bench"
	missing=$(missing_packages "$wanted")
	[ -z "$missing" ] || install_packages "$missing"
	exit 0
fi

missing=$(missing_things)
[ -n "$missing" ] || exit 0
say "this distribution is not known here. Missing: $missing"
say "the libraries are, with their development files: $libraries"
say "besides: gcc or clang (C11), GNU make, clang-format, protoc-c (protobuf-c-compiler), python3"
exit 1

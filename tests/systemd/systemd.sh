#!/bin/bash
# The service under a systemd of its own: make test-systemd. Needs root, systemd-nspawn, debootstrap and a mirror.
#
#   systemd.sh
#
# A small system is put into $ROOT (else a new folder, removed at the end), kvcellar is installed into it as the README
# says, it is booted in a container, and inside.sh uses the service there: TAP. A $ROOT that has a system already is
# used as it is, and kept. SUITE (bookworm) and MIRROR say which one. Nothing of the system around it is changed.
set -u
cd "$(dirname "$0")/../.." || exit 1

suite=${SUITE:-bookworm}
packages=systemd,systemd-sysv,dbus,procps,libuv1,liburing2,libprotobuf-c1,libxxhash0,libsodium23,libssl3,libinih1
packages+=,libsystemd0,libjansson4,libsmartcols1
root=${ROOT:-}
container=

skip() {
	echo "1..0 # skip: $*"
	exit 77
}

cleanup() {
	if [ -n "$container" ]; then
		inside systemctl poweroff 2>/dev/null
		wait "$container"
	fi
	[ -n "${ROOT:-}" ] || rm -rf "$root"
}

# Run a command in the container.
inside() {
	nsenter -t "$(pgrep -P "$container")" -m -u -i -p -n --wdns=/ -- "$@"
}

boot() {
	local arguments=(--register=no -D "$root" -b)
	[ -d /run/systemd/system ] || arguments+=(--keep-unit)
	# Its own filter knows no io_uring; the unit's is the one that is tried.
	SYSTEMD_SECCOMP=0 systemd-nspawn "${arguments[@]}" >"$root/boot.log" 2>&1 </dev/null &
	container=$!
	for _ in $(seq 100); do
		case $(inside systemctl is-system-running 2>/dev/null) in
		running | degraded) return 0 ;;
		esac
		sleep 0.3
	done
	tail "$root/boot.log"
	return 1
}

[ "$(id -u)" = 0 ] || skip "not root"
for tool in systemd-nspawn debootstrap nsenter; do
	command -v $tool >/dev/null || skip "no $tool: apt-get install debootstrap systemd-container"
done
[ -n "$root" ] || root=$(mktemp -d "${TMPDIR:-/var/tmp}/kvc-systemd-XXXXXX") || exit 1
trap cleanup EXIT
chmod 755 "$root" # it is the root of others than root, too
trap 'exit 130' INT TERM
if [ ! -x "$root/bin/systemctl" ]; then
	echo "# putting $suite into $root"
	if ! debootstrap --variant=minbase --include=$packages "$suite" "$root" ${MIRROR:+"$MIRROR"} >"$root.log" 2>&1; then
		tail "$root.log"
		exit 1
	fi
	rm -f "$root.log"
fi
make --no-print-directory DESTDIR="$root" PREFIX=/usr install >/dev/null || exit 1
cp tests/systemd/inside.sh tests/data/{keys,values}.bf16 deploy/kvcellard-gpu.conf "$root/opt/" || exit 1
boot || exit 1
inside bash /opt/inside.sh

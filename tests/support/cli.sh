# Shared by the scripts that test the program kvcellar against a daemon: source it, then begin.
#
# It makes $work, starts a daemon (daemon_start OPTIONS...) and ends both with the script. run and result print TAP.
# shellcheck shell=bash

bin=${1:-${KVC_BIN:-build/bin}}
program=$bin/kvcellar
work=$(mktemp -d "${TMPDIR:-/tmp}/kvc-XXXXXX")
daemon_pid=
export KVCELLAR_SOCKET=$work/s

daemon_stop() {
	if [ -n "$daemon_pid" ]; then
		kill "$daemon_pid" 2>/dev/null
		wait "$daemon_pid" 2>/dev/null
		daemon_pid=
	fi
}

cleanup() {
	daemon_stop
	rm -rf "$work"
}
trap cleanup EXIT

# daemon_start OPTION...: returns when it answers.
daemon_start() {
	"$bin/kvcellard" --socket "$KVCELLAR_SOCKET" --ram 64M "$@" >"$work/daemon.log" 2>&1 &
	daemon_pid=$!
	until "$program" ping >/dev/null 2>&1; do
		if ! kill -0 "$daemon_pid" 2>/dev/null; then
			echo "Bail out! the daemon does not start: $(tail -n 3 "$work/daemon.log")"
			exit 1
		fi
	done
}

number=0
failed=0

# result NAME FAULT: an empty fault is a pass.
result() {
	number=$((number + 1))
	if [ -z "$2" ]; then
		echo "ok $number - $1"
	else
		echo "not ok $number - $1: ${2//$'\n'/ | }"
		failed=$((failed + 1))
	fi
}

# run CODE TEXT NAME ARGUMENT...: kvcellar with these arguments ends with that code and says that text.
run() {
	local code=$1 text=$2 name=$3 said got
	shift 3
	said=$("$program" "$@" 2>&1)
	got=$?
	if [ $got -ne "$code" ]; then
		result "$name" "exit code $got, expected $code: $said"
	elif [[ $said != *"$text"* ]]; then
		result "$name" "'$text' is not in: $said"
	else
		result "$name" ""
	fi
}

# others NAME...: what lies in $work besides these
others() {
	local file name
	for file in "$work"/*; do
		[ -e "$file" ] || continue
		for name in "$@"; do
			[ "${file##*/}" = "$name" ] && continue 2
		done
		echo "${file##*/}"
	done
}

finish() {
	echo "1..$number"
	[ $failed -eq 0 ]
}

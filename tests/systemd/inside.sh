#!/bin/bash
# The life of kvcellar.service, in a system that has nothing else to do: systemd.sh runs it in there. TAP.
set -u
cd /opt || exit 1

conf=/etc/kvcellar/kvcellard.conf
drop_in=/etc/systemd/system/kvcellar.service.d
sequence=(--model m --layers 8 --heads 2 --dim 128 --dtype bf16 --tokens 256 --block-tokens 64 --sequence s)
number=0
failures=0

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
		echo "# ${output//$'\n'/$'\n# '}"
		journalctl -u kvcellar -n 12 --no-pager -o cat | sed 's/^/# /'
	fi
}

option() {
	sed -i "s|^$1 =.*|$1 = $2|" $conf
}

drop_in() {
	mkdir -p $drop_in
	printf '[Service]\n%s\n' "$2" >"$drop_in/$1.conf"
	systemctl daemon-reload
}

process() {
	systemctl show -p MainPID --value kvcellar
}

answers() {
	local _
	for _ in $(seq 300); do
		kvcellar ping >/dev/null 2>&1 && return
		sleep 0.1
	done
	echo "no answer"
	return 1
}

logged() {
	journalctl -u kvcellar -n 40 --no-pager -o cat | grep -q -- "$1"
}

put() {
	kvcellar put "${sequence[@]}" --keys keys.bf16 --values values.bf16 --ack disk "$@"
}

# get NAME: what comes back is in NAME.keys and NAME.values.
get() {
	kvcellar get "${sequence[@]}" --out-keys "$1.keys" --out-values "$1.values" "${@:2}"
}

same() {
	get again "$@" && cmp first.keys again.keys && cmp first.values again.values
}

starts() {
	systemctl start kvcellar && answers && logged 'ready on /run/kvcellar/kvcellar.sock' && logged 'io_uring, direct'
}

is_confined() {
	local status
	status=/proc/$(process)/status
	grep -q 'CapEff:	0000000000000000' "$status" && grep -q 'NoNewPrivs:	1' "$status" &&
		grep -q 'Seccomp:	2' "$status" && [ "$(stat -c %u "/proc/$(process)")" != 0 ]
}

outlives_restart() {
	systemctl restart kvcellar && answers && same
}

outlives_kill() {
	local before
	before=$(process)
	kill -9 "$before" && sleep 0.5 && answers && [ "$(process)" != "$before" ] && same
}

outlives_hang() {
	local before _
	before=$(process)
	kill -STOP "$before"
	for _ in $(seq 60); do
		sleep 1
		case $(process) in
		0 | "$before") ;;
		*) answers && same && return ;;
		esac
	done
	echo "process $before was not replaced"
	return 1
}

reloads() {
	option log-level debug
	systemctl reload kvcellar && sleep 0.5 && logged 'configuration reloaded'
}

lets_in() {
	option socket-mode 0666
	option allow-uids guest
	useradd guest
	useradd stranger
	systemctl restart kvcellar && answers && su guest -c 'kvcellar ping' && ! su stranger -c 'kvcellar ping'
}

takes_key() {
	head -c 32 /dev/urandom >/etc/kvcellar/disk.key
	chmod 600 /etc/kvcellar/disk.key
	drop_in key 'LoadCredential=disk.key:/etc/kvcellar/disk.key'
	option disk-key credential:disk.key
	systemctl restart kvcellar && answers && same && put --tenant sealed &&
		systemctl restart kvcellar && answers && same --tenant sealed
}

refuses_bad_option() {
	local status=0
	option ram lots
	systemctl restart kvcellar && status=1
	sleep 2
	[ "$(systemctl is-active kvcellar)" = failed ] || status=1
	[ "$(systemctl show -p NRestarts --value kvcellar)" = 0 ] || status=1
	logged "option 'ram': 'lots' is not a size" || status=1
	option ram 256M
	systemctl reset-failed kvcellar && systemctl start kvcellar && answers && same && return $status
}

takes_gpus() {
	mkdir -p $drop_in && cp kvcellard-gpu.conf $drop_in/gpu.conf && systemctl daemon-reload
	option gpus auto
	systemctl restart kvcellar && answers && same
}

stops() {
	systemctl stop kvcellar && [ "$(systemctl is-active kvcellar)" = inactive ] && [ ! -e /run/kvcellar ]
}

option disk /var/lib/kvcellar
option disk-size 1G
option ram 256M
check "it starts, with its disk tier in its state directory" starts
check "it has no rights" is_confined
check "a durable put" put
check "and its get" get first
check "a restart keeps it" outlives_restart
check "systemd starts it again when it is killed" outlives_kill
check "the watchdog ends it when it hangs, and it is started again" outlives_hang
check "it reloads" reloads
check "a user that is allowed gets in, another does not" lets_in
check "the key of its disk comes from systemd" takes_key
check "a wrong option is said, and not tried again" refuses_bad_option
check "with the drop-in for GPUs it starts where there are none, too" takes_gpus
check "it stops" stops
echo "1..$number"
[ $failures -eq 0 ]

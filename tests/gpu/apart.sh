#!/bin/bash
# A test of tests/gpu/e2e whose daemon is another user's, with another /dev/shm, network and System V IPC, as in a
# container or a service of its own. Needs root.
#
#   apart.sh PROGRAM [ARGUMENT...]
set -u

bin=$(realpath "${KVC_BIN:-build/bin}")
user=4711

if [ "$(id -u)" != 0 ]; then
	echo 'not root: cannot start the daemon as another user'
	exit 77
fi
for tool in unshare setpriv; do
	if ! command -v $tool >/dev/null; then
		echo "no $tool"
		exit 77
	fi
done
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
ln -s "$bin"/* "$folder/"
rm "$folder/kvcellard"
# It may still write its socket and files where the test, which is root, wants them.
cat >"$folder/kvcellard" <<EOF
#!/bin/sh
exec unshare --ipc --net --mount sh -c 'mount -t tmpfs apart /dev/shm && exec "\$0" "\$@"' \
	setpriv --reuid=$user --regid=$user --clear-groups --inh-caps=+dac_override --ambient-caps=+dac_override \
	"$bin/kvcellard" "\$@"
EOF
chmod 755 "$folder" "$folder/kvcellard"
KVC_BIN=$folder "$@"

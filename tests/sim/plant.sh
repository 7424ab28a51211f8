#!/bin/bash
# plant.sh PLANT OUT: the source file that a plant names in its first line, with its bug in it, as OUT.
#
# A plant is a sed script. One that no longer changes anything is an error: the code that it spoils has moved.
# OUT stays untouched if it would be the same.
set -eu
plant=$1
out=$2
source=$(sed -n '1s/^# in //p' "$plant")
mkdir -p "$(dirname "$out")"
sed -f "$plant" "$source" >"$out.new"
if cmp -s "$source" "$out.new"; then
	echo "$plant: nothing in $source matches" >&2
	exit 1
fi
if cmp -s "$out" "$out.new"; then
	rm "$out.new"
else
	mv "$out.new" "$out"
fi

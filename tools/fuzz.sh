#!/bin/sh
# Fuzz the readers with libFuzzer, under ASan and UBSan.
#
#   tools/fuzz.sh NAME SECONDS      builds and runs tests/fuzz/fuzz_NAME.c; NAME empty: each in turn
#
# The readers are compiled anew by clang, instrumented, into build/fuzz/. It starts from the files the
# tests have anyway (tests/golden), from what earlier runs found worth keeping (tests/fuzz/corpus-NAME)
# and from build/fuzz/corpus-NAME/, where new finds collect; a crash is left as
# build/fuzz/crash-NAME-*. MERGE=1 runs nothing but makes tests/fuzz/corpus-NAME anew: the fewest short
# inputs that reach what all finds reach.
set -eu

name=${1:-} seconds=${2:-60}
known=$(for f in tests/fuzz/fuzz_*.c; do basename "$f" .c | sed 's/^fuzz_//'; done | tr '\n' ' ')
if [ -z "$name" ]; then
    for one in $known; do
        echo "== $one"
        "$0" "$one" "$seconds"
    done
    exit 0
fi
if [ ! -f "tests/fuzz/fuzz_$name.c" ]; then
    echo "fuzz: make fuzz T=NAME TIME=SECONDS, with NAME one of: $known" >&2
    exit 2
fi
tools/deps.sh clang

out=build/fuzz corpus=build/fuzz/corpus-$name
mkdir -p "$corpus"
flags="-std=gnu11 -g -O1 -D_GNU_SOURCE -I. -pthread -w -fno-omit-frame-pointer
    -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all"
# What reads bytes from outside, and nothing that computes.
for source in core/base/*.c core/file/*.c core/text/*.c core/jinja/*.c core/family/*.c core/arch.c core/sae_read.c "tests/fuzz/fuzz_$name.c"; do
    [ -f "$source" ] || continue
    object=$out/$(basename "$source" .c).o
    objects="${objects:-} $object"
    [ -n "$(find "$object" -newer "$source" 2>/dev/null)" ] &&
        [ -z "$(find core -name '*.[hdi]*' -newer "$object")" ] && continue
    # shellcheck disable=SC2086 # flags are words
    clang $flags -c -o "$object" "$source"
done
# shellcheck disable=SC2086
clang -fsanitize=fuzzer,address,undefined -pthread -o "$out/fuzz_$name" $objects \
    -lpcre2-8 -lutf8proc -lm

# What the tests have is what the formats look like. fuzz_tokenizer takes a byte first that chooses what
# the rest is; fuzz_sae a description, a zero byte, and weights.
seeds=$out/seeds-$name kept=tests/fuzz/corpus-$name
rm -rf "$seeds"
mkdir -p "$seeds" "$kept"
take() { find tests/golden -name "$1" -size -"$2"k; }
n=0
case $name in
    gguf) files=$(take '*.gguf' 400) lead= ;;
    safetensors) files=$(take '*.safetensors' 400) lead= ;;
    config) files=$(take 'config.json' 64) lead= ;;
    json) files=$(take '*.json' 16) lead= ;;
    sae) files= lead=
        for dir in tests/golden/saes/*; do
            { cat "$dir/cfg.json"; printf '\000'; cat "$dir/sae_weights.safetensors"; } > "$seeds/$(basename "$dir")"
        done ;;
    tokenizer) files=$(take 'tokenizer.json' 64; take '*tiny*.json' 64) lead='\002' ;;
    template) files= lead=
        python3 -c 'import glob, json, sys
templates = [c["template"] for f in glob.glob("tests/golden/chat/*.json") for c in json.load(open(f))]
for n, text in enumerate(templates):
    open(f"{sys.argv[1]}/{n}", "w").write(text)' "$seeds" ;;
    *) files= lead= ;;
esac
for file in $files; do
    n=$((n + 1))
    # shellcheck disable=SC2059 # an escape
    { printf "$lead"; cat "$file"; } > "$seeds/$n"
done

if [ -n "${MERGE:-}" ]; then
    rm -rf "$out/kept"
    mkdir "$out/kept"
    "$out/fuzz_$name" -set_cover_merge=1 -timeout=10 -max_len=2048 "$out/kept" "$kept" "$corpus"
    rm -rf "$kept"
    exec mv "$out/kept" "$kept"
fi
"$out/fuzz_$name" -max_total_time="$seconds" -timeout=60 -rss_limit_mb=4096 -print_final_stats=1 \
    -artifact_prefix="$out/crash-$name-" "$corpus" "$seeds" "$kept"

#!/bin/sh
# Fuzz one reader with libFuzzer, under ASan and UBSan.
#
#   tools/fuzz.sh NAME SECONDS      builds and runs tests/fuzz/fuzz_NAME.c
#
# The engine is compiled anew by clang, instrumented, into build/fuzz/. Inputs worth keeping collect
# in build/fuzz/corpus-NAME/, a crash is left as build/fuzz/crash-NAME-*; every input found before,
# and tests/fuzz/corpus-NAME/ where it exists, is run first.
set -eu

name=${1:-} seconds=${2:-60}
known=$(for f in tests/fuzz/fuzz_*.c; do basename "$f" .c | sed 's/^fuzz_//'; done | tr '\n' ' ')
if [ -z "$name" ] || [ ! -f "tests/fuzz/fuzz_$name.c" ]; then
    echo "fuzz: make fuzz T=NAME TIME=SECONDS, with NAME one of: $known" >&2
    exit 2
fi
tools/deps.sh clang

out=build/fuzz corpus=build/fuzz/corpus-$name
mkdir -p "$corpus"
flags="-std=gnu11 -g -O1 -D_GNU_SOURCE -I. -pthread -fno-omit-frame-pointer -w
    -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all"
# shellcheck disable=SC2086 # flags are words
for source in core/*.c core/*/*.c "tests/fuzz/fuzz_$name.c"; do
    object=$out/$(basename "$source" .c).o
    [ -n "$(find "$object" -newer "$source" 2>/dev/null)" ] &&
        [ -z "$(find core -name '*.[hd]*' -newer "$object")" ] || clang $flags -c -o "$object" "$source"
    objects="${objects:-} $object"
done
# shellcheck disable=SC2086
clang -fsanitize=fuzzer,address,undefined -pthread -o "$out/fuzz_$name" $objects \
    -lopenblas -lpcre2-8 -lutf8proc -lm

seeds=tests/fuzz/corpus-$name
[ -d "$seeds" ] || seeds=
# shellcheck disable=SC2086
"$out/fuzz_$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -print_final_stats=1 \
    -artifact_prefix="$out/crash-$name-" "$corpus" $seeds

#!/bin/bash
# Prove the layering: who may include whom, one door per library, headers that stand alone, and an
# engine that neither prints, exits, nor reads the clock or the environment.
#
#   tools/layers.sh BUILD [TREE]
#
# BUILD holds the libraries of a plain build; TREE is the source tree (the current folder). One line
# per thing proven, the offenders below it; the last line is the tally and the exit code follows it.
set -euo pipefail
export LC_ALL=C

build=${1:?usage: $0 BUILD [TREE]}
cd "${2:-.}"

# Folder, the folders whose headers it may include, its libraries' doors.
may_include='
core    core
probes  core probes
edits   core probes edits
ledger  core ledger
server  core probes edits ledger server
schema  schema
'
# Inside the engine: what each of its folders may include of it.
inner='
core/base    core/base
core/file    core/base core/file
core/jinja   core/base core/jinja core/text/codepoint.h
core/text    core/base core/file core/jinja core/text
core/kernel  core/base core/file core/kernel core/hook.h core/arch.h
'
# A third-party header and the only files that include it.
doors='
cblas.h        core/kernel/blas.c
pcre2.h        core/text/pcre.c
utf8proc.h     core/text/nfc.c
sqlite3.h      ledger/db.c
openssl/evp.h  ledger/digest.c
microhttpd.h   server/http.c
uv.h           server/loop.c
cjson/cJSON.h  server/json.c schema/*
zlib.h         server/zip.c
'
# The C library as the engine may see it, and what the folders above it may use besides.
libc_core=' assert.h dirent.h errno.h fcntl.h float.h inttypes.h limits.h math.h pthread.h sched.h stdarg.h
 fnmatch.h stdatomic.h stdbool.h stddef.h stdint.h stdio.h stdlib.h string.h strings.h sys/mman.h sys/stat.h
 sys/types.h unistd.h cpuid.h immintrin.h '
libc_more=' arpa/inet.h ctype.h malloc.h netinet/in.h netinet/tcp.h poll.h signal.h sys/file.h sys/random.h
 sys/resource.h sys/socket.h sys/statvfs.h sys/time.h sys/un.h sys/wait.h time.h '
libc_core=${libc_core//$'\n'/} libc_more=${libc_more//$'\n'/}
generated=' shapes.h '

# What the engine may not call: other folders' libraries, the end of the process, output, the
# environment, the clock, other processes.
engine_never='^(MHD_|sqlite3_|uv_|cJSON_|EVP_|SHA[0-9])|^(_?exit|_Exit|quick_exit|abort|raise|kill|signal|sigaction|(__)?v?printf(_chk)?|(__)?v?dprintf(_chk)?|puts|putchar|perror|psignal|stdout|stderr|(secure_)?getenv|setenv|putenv|environ|time|clock|clock_gettime|gettimeofday|localtime(_r)?|gmtime(_r)?|nanosleep|usleep|sleep|s?rand(om)?|fork|exec[a-z]*|popen|system|dlopen)$'
verbs_never='^(MHD_|sqlite3_|uv_|cJSON_|EVP_)|^(_?exit|abort|puts|(__)?v?printf(_chk)?|stdout|stderr|getenv)$'
ledger_never='^(MHD_|uv_|cJSON_)|^(_?exit|abort|puts|(__)?v?printf(_chk)?|stdout|stderr|getenv)$'

passed=0 failed=0
proven() { # WHAT OFFENDERS: proven when there are none
    if [ -z "$2" ]; then
        passed=$((passed + 1))
        echo "ok      $1"
    else
        failed=$((failed + 1))
        echo "BROKEN  $1"
        printf '%s\n' "$2" | sed 's/^/            /'
    fi
}

has() { case "$1" in *"$2"*) true ;; *) false ;; esac; }
row() { echo "$1" | awk -v key="$2" '$1 == key { $1 = ""; print $0 " " }'; }

includes() { # FOLDER: "file:<header>" or "file:"header"" a line
    find "$1" \( -name '*.[ch]' -o -name '*.def' \) -exec \
        awk 'match($0, /^[ \t]*#[ \t]*include[ \t]*[<"][^>"]*/) {
                 text = substr($0, RSTART, RLENGTH)
                 sub(/^[ \t]*#[ \t]*include[ \t]*/, "", text)
                 print FILENAME ":" text }' {} +
}

quoted_offender() { # FOLDER FILE HEADER: true when that file may not include "HEADER"
    case $3 in
    */*) ! has "$(row "$may_include" "$1")" " ${3%%/*} " || [ ! -e "$3" ] ;;
    *) [ ! -e "${2%/*}/$3" ] && ! { [ "$1" = server ] && has "$generated" " $3 "; } ;;
    esac
}

angled_offender() { # FILE HEADER
    local allowed
    for allowed in $(set -f; row "$doors" "$2"); do
        # shellcheck disable=SC2053 # the right side is a pattern
        [[ $1 == $allowed ]] && return 1
    done
    has "$libc_core" " $2 " && return 1
    has "$libc_more" " $2 " && [[ $1 != core/* ]] && return 1
    return 0
}

check_includes() { # FOLDER
    local file header bad=
    while IFS=: read -r file header; do
        if case $header in
            \"*) quoted_offender "$1" "$file" "${header#\"}" ;;
            *) angled_offender "$file" "${header#<}" ;;
            esac
        then bad+="$file includes ${header#[<\"]}"$'\n'; fi
    done < <(includes "$1")
    proven "$1/ includes only:$(row "$may_include" "$1")and its libraries through their doors" "${bad%$'\n'}"
}

check_inner() { # the engine's folders in order: bytes, files, text, kernels, and above them the model
    local folder allowed file header bad
    while read -r folder allowed; do
        [ -n "$folder" ] || continue
        bad=
        while IFS=: read -r file header; do
            header=${header#\"}
            case $header in \<* | */*) ;; *) header=$folder/$header ;; esac
            case $header in core/*) ;; *) continue ;; esac
            has " $allowed " " ${header%/*} " || has " $allowed " " $header " || bad+="$file includes $header"$'\n'
        done < <(includes "$folder")
        proven "$folder/ includes only $allowed" "${bad%$'\n'}"
    done <<< "$inner"
}

check_doors() {
    local header files used
    while read -r header files; do
        [ -n "$header" ] || continue
        used=$(grep -rlE --include='*.[ch]' "^[ \t]*#[ \t]*include[ \t]*<$header>" core probes edits ledger server | sort | tr '\n' ' ') || true
        proven "$header has one door: ${used:-none}" "$([ "$(echo "$used" | wc -w)" -eq 1 ] || echo "included by: ${used:-no file}")"
    done <<< "$doors"
}

check_headers() { # FOLDER: every header compiles alone, before anything else
    local header out bad= n=0
    for header in $(find "$1" -name '*.h'); do
        n=$((n + 1))
        out=$(echo "#include \"$header\"" | "${CC:-cc}" -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror \
            -I. -I"$build/gen" -fsyntax-only -x c - 2>&1) || bad+="$header: $(echo "$out" | grep -m1 error:)"$'\n'
    done
    [ $n -gt 0 ] || return 0
    proven "$1/: each of $n headers compiles alone" "${bad%$'\n'}"
}

check_symbols() { # LIBRARY PATTERN WHAT
    local out bad
    out=$(nm -A -u "$build/$1") || { proven "$1 $3" "cannot read $build/$1"; return; }
    bad=$(echo "$out" | awk -v never="$2" '$NF ~ never { n = split($1, at, ":"); print at[n - 1] " calls " $NF }')
    proven "$1 $3" "$bad"
}

check_globals() {
    local out bad
    out=$(size -A "$build/libcore.a") || { proven "libcore.a has no mutable globals" "cannot read it"; return; }
    bad=$(echo "$out" | awk '/^[^ ]+ +:|\(ex / { object = $1 }
        $1 ~ /^\.(data|bss|tdata|tbss)(\.|$)/ && $1 !~ /^\.data\.rel\.ro/ && $2 > 0 { print object, $1, $2, "bytes" }')
    proven "libcore.a has no mutable globals: 0 bytes of .data, .bss, .tdata, .tbss" "$bad"
}

folders=$(echo "$may_include" | awk 'NF { print $1 }')
for folder in $folders; do check_includes "$folder"; done
check_inner
check_doors
for folder in $folders tests/unit/support; do check_headers "$folder"; done
check_symbols libcore.a "$engine_never" "never prints, exits, or reads the environment or the clock"
check_symbols libprobes.a "$verbs_never" "knows no HTTP, SQL, event loop or cJSON, never prints or exits"
check_symbols libedits.a "$verbs_never" "knows no HTTP, SQL, event loop or cJSON, never prints or exits"
check_symbols libledger.a "$ledger_never" "knows no HTTP, event loop or cJSON, never prints or exits"
check_globals

echo
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]

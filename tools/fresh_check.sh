#!/bin/bash
# Prove the two commands of the README on a fresh Debian 12: a minimal root made with debootstrap,
# with git, make and ca-certificates and nothing else, in which `make demo` and `make test` run
# from a clone of the committed state.
#
#   tools/fresh_check.sh [TARGET…]        default: demo test
#
# Needs root. Everything mounted lives in a private mount namespace, processes in a pid namespace;
# both are gone before the root is removed, and the removal does not cross file systems. From the
# host come copies only: settings and certificates of apt and pip, name resolution, and the proxy
# and certificate variables of the environment. MIRROR names the Debian mirror (default: the first
# one of apt's own settings), KEEP=1 keeps the root, FRESH_DIR is where it is made (/var/tmp).
set -euo pipefail

suite=bookworm
base_packages=(git make ca-certificates)
here=$(cd "$(dirname "$0")/.." && pwd)

say() { echo "fresh-check: $*"; }
give_up() { echo "fresh-check: $*" >&2; exit 1; }

timed() { # WHAT COMMAND…
    local what=$1 start=$SECONDS status=0
    shift
    say "$what"
    "$@" || status=$?
    times+=("$(printf '%5d s  %s%s' $((SECONDS - start)) "$what" "$([ $status -eq 0 ] || echo "  FAILED ($status)")")")
    return $status
}

first_mirror() {
    local uris
    uris=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null |
        sed -nE 's/^(URIs:|deb( \[[^]]*\])?) +([^ ]+).*/\3/p') || true
    echo "${uris%%$'\n'*}"
}

# ---- inside the namespaces --------------------------------------------------------------------

copy_in() { # ROOT: the host's package-client settings, by copy, never by mount
    local path
    rm -f "${1:?}/etc/apt/sources.list"
    for path in /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/apt.conf.d /etc/apt/keyrings \
        /etc/pip.conf /etc/xdg/pip /etc/ssl/certs /usr/local/share/ca-certificates; do
        [ -e "$path" ] || continue
        mkdir -p "$1$(dirname "$path")"
        rm -rf --one-file-system "${1:?}$path"
        cp -a "$path" "$1$path"
    done
    rm -f "$1/etc/resolv.conf" "$1/etc/hosts"
    cp -L /etc/resolv.conf /etc/hosts "$1/etc/" # links, on many machines
    if [ -d "${HOME:-/root}/.config/pip" ]; then
        mkdir -p "$1/root/.config"
        cp -a "${HOME:-/root}/.config/pip" "$1/root/.config/"
    fi
}

mount_fresh() { # ROOT: kernel file systems of its own, nothing of the host's
    local node
    mount -t proc proc "$1/proc"
    mount -t sysfs -o ro sysfs "$1/sys"
    mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
    mount -t tmpfs -o mode=755 tmpfs "$1/dev"
    for node in null:3 zero:5 full:7 random:8 urandom:9; do
        mknod -m 666 "$1/dev/${node%:*}" c 1 "${node#*:}"
    done
    mknod -m 666 "$1/dev/tty" c 5 0
    mkdir "$1/dev/pts" "$1/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$1/dev/pts"
    mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm"
    ln -s pts/ptmx "$1/dev/ptmx"
    ln -s /proc/self/fd "$1/dev/fd"
}

in_root() { # COMMAND…: in the fresh root, with a fresh environment
    local keep=() name
    for name in $(compgen -e); do
        case $name in
        http_proxy | https_proxy | no_proxy | HTTP_PROXY | HTTPS_PROXY | NO_PROXY | SSL_CERT_* | \
            *_CA_BUNDLE | GIT_SSL_CAINFO | PIP_INDEX_URL | PIP_EXTRA_INDEX_URL | PIP_CERT | \
            PIP_TRUSTED_HOST | PIP_DEFAULT_TIMEOUT | PIP_DISABLE_PIP_VERSION_CHECK)
            keep+=("$name=${!name}") ;;
        esac
    done
    env -i "${keep[@]}" HOME=/root TERM="${TERM:-dumb}" LANG=C.UTF-8 \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" "$@"
}

base_install() {
    copy_in "$root"
    in_root apt-get -q update &&
        in_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 \
            install --no-install-recommends "${base_packages[@]}" &&
        copy_in "$root" # the certificates' package has just rewritten its bundle
}

inside() { # ROOT TARGET…
    root=$1
    shift
    local status=0 target mirror=${MIRROR:-$(first_mirror)}
    mount --make-rprivate /
    timed "debootstrap $suite" debootstrap --variant=minbase "$suite" "$root" ${mirror:+"$mirror"} \
        > "$root.log" 2>&1 || { tail -20 "$root.log" >&2; give_up "debootstrap failed"; }
    git clone -q --bare --no-hardlinks "$here" "$root/srv/engramd.git"
    mount_fresh "$root"
    timed "apt-get install ${base_packages[*]}" base_install
    in_root git clone -q /srv/engramd.git /root/engramd
    for target in "$@"; do
        timed "make $target" in_root make -C /root/engramd "$target" || status=1
    done
    printf '\n'
    printf '%s\n' "${times[@]}"
    return $status
}

# ---- outside ----------------------------------------------------------------------------------

remove_root() { # ROOT: only when nothing is mounted below it any more
    if grep -qF " $1/" /proc/self/mounts; then
        give_up "something is still mounted below $1; left alone"
    fi
    rm -rf --one-file-system "$1" "$1.log"
}

times=()
if [ "${1:-}" = --inside ]; then
    shift
    inside "$@"
    exit
fi

[ "$(id -u)" -eq 0 ] || give_up "needs root (mount namespaces, debootstrap)"
"$here/tools/deps.sh" debootstrap git
[ -z "$(git -C "$here" status --porcelain)" ] || say "the work tree has changes; only what is committed is checked"
[ $# -gt 0 ] || set -- demo test

root=$(mktemp -d "${FRESH_DIR:-/var/tmp}/engramd-fresh.XXXXXX")
chmod 755 "$root"
status=0
unshare --mount --propagation private --pid --fork --kill-child -- "$0" --inside "$root" "$@" || status=$?
if [ "${KEEP:-}" = 1 ]; then say "kept $root"; else remove_root "$root"; fi
[ $status -eq 0 ] && say "passed" || say "FAILED"
exit $status

#!/bin/sh
# Install Debian packages, as few steps as possible.
#
#   tools/deps.sh PACKAGE…
#
# Nothing is asked of apt when every package is there. The package lists are refreshed only when
# the installation fails with the ones at hand. Not root: sudo. Ends non-zero with a sentence when
# neither apt-get nor a way to become root is there.
set -eu

missing() {
    for p in "$@"; do
        case $(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) in
        installed) ;;
        *) printf '%s ' "$p" ;;
        esac
    done
}

give_up() {
    echo "deps: $*" >&2
    exit 1
}

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
    give_up "no apt-get here; install what these Debian packages hold, then run make build: $*"

wanted=$(missing "$@")
[ -n "$wanted" ] || exit 0

root=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || give_up "not root and no sudo; as root, run: apt-get install $wanted"
    root=sudo
fi

apt() {
    # shellcheck disable=SC2086 # an empty $root is no word
    $root env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@"
}

install() {
    # shellcheck disable=SC2086 # package names, one word each
    apt -o Dpkg::Use-Pty=0 install --no-install-recommends $wanted
}

echo "deps: installing $wanted"
# A machine whose lists were never fetched knows none of the names: no use in trying.
# shellcheck disable=SC2086
if ! apt-cache show $wanted >/dev/null 2>&1 || ! install; then
    apt update || give_up "apt-get update failed; is the network up?"
    install || give_up "apt-get could not install: $wanted"
fi
wanted=$(missing "$@")
[ -z "$wanted" ] || give_up "still missing after installing: $wanted"

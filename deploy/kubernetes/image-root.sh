#!/bin/sh
# Makes the contents of the image: the bundle from dist/, and of this machine the loader and
# the C library. Needs no network.
#
#   deploy/kubernetes/image-root.sh FOLDER     a new folder
set -eu

if [ $# -ne 1 ] || [ "$1" = --help ]; then
    sed -n '2,/^set -eu/{/^#/s/^# \{0,1\}//p}' "$0"
    [ "${1-}" = --help ]
    exit
fi
root=$1
bundle=$(dirname "$0")/../../dist/faasm
[ -x "$bundle/cni-faasm" ] || { echo "$0: no dist/faasm: run ./build.sh first" >&2; exit 1; }

mkdir "$root"
cp -a "$bundle" "$root/bundle"
# Where volumes are mounted while the root file system is read-only.
mkdir -p "$root/config" "$root/host/usr/lib/cni-faasm" "$root/host/opt/cni/bin" \
    "$root/host/etc/cni/net.d" "$root/etc/cni/net.d" "$root/var/lib/cni" \
    "$root/var/run/netns" "$root/proc" "$root/sys" "$root/dev" "$root/etc" "$root/run"
find "$bundle" -type f \( -perm -100 -o -name '*.so*' \) -exec ldd {} + 2>/dev/null |
    sed -n 's,^.*[[:space:]]\(/[^ ]*\) (0x.*,\1,p' | sort -u |
    while read -r library; do
        case $library in "$(cd "$bundle" && pwd)"/*) continue ;; esac
        mkdir -p "$root${library%/*}"
        cp -L "$library" "$root$library"
    done

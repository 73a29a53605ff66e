#!/bin/bash
# Keep the firewalls that the tests run in a folder: unpacked, for their packages would start
# them on this machine.
#
#   tests/fetch_firewalls.sh      prints the folder
#
# It is beside the kernels and roots of tests/vm/fetch.sh, so that another checkout need not fetch.
set -euo pipefail

cache=${FAASM_VM_CACHE:-/var/cache/cni-faasm-vm}
folder=$cache/firewalls
packages=(firewalld python3-firewall python3-nftables ufw)

if [ ! -e "$folder/usr/sbin/ufw" ]; then
    mkdir -p "$cache"
    # One at a time: the next one finds all there.
    exec 9<"$cache"
    flock 9
fi
if [ ! -e "$folder/usr/sbin/ufw" ]; then
    rm -rf "$folder"
    new=$(mktemp -d "$cache/firewalls.XXXXXX")
    # apt's own user may not write there, which it remarks on
    (cd "$new" && apt-get -q download "${packages[@]}") >"$new/log" 2>&1 || {
        cat "$new/log" >&2
        exit 1
    }
    for package in "$new"/*.deb; do
        dpkg-deb --extract "$package" "$new"
        rm "$package"
    done
    cp -a "$new/lib/." "$new/usr/lib/" # as on any Debian since 12
    rm -r "${new:?}/lib"
    mv "$new" "$folder"
fi
echo "$folder"

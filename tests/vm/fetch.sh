#!/bin/bash
# Fetch what guests are made of, and keep it: Debian's kernels, and roots of its suites.
#
#   tests/vm/fetch.sh kernel/bookworm kernel/sid root/bookworm      what is there is kept
#   tests/vm/fetch.sh --renew kernel/sid                            ... or fetched again
#   tests/vm/fetch.sh --check kernel/sid                            only say whether it is there
#
# They are kept in /var/cache/cni-faasm-vm, or in the folder that FAASM_VM_CACHE names:
#
#   kernels/SUITE/vmlinuz, initrd, lib/modules/VERSION    the cloud kernel of a suite
#   roots/NAME/    what a line of tests/vm/roots.txt says; its line is beside it
#   firewalls/     what tests/fetch_firewalls.sh keeps
#
# What ends in -arm64 is for that processor; such a root is unpacked, but not configured.
#
# The mirror is the one that the machine's own apt uses. Its lists, its sources and its status
# are not touched; only the programs that fetch and boot are installed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
cache=${FAASM_VM_CACHE:-/var/cache/cni-faasm-vm}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
# What the initrd loads to reach the root (virtiofs), to put a layer on it, and that layer's disk.
initrd_modules=(virtio_pci virtiofs overlay virtio_blk ext4)

say() { printf '\n== %s\n' "$*" >&2; }
fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# Print the processor of a kernel or root by its name.
architecture_of() {
    case $1 in
    *-arm64) echo arm64 ;;
    *) dpkg --print-architecture ;;
    esac
}

# Print a list line for a suite, from the mirror of the suite that the machine runs.
source_of() {
    local own uri
    own=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    # Others than Debian name their suites so, too; without lists nobody's origin is known.
    # shellcheck disable=SC2016  # the words in $() are apt's
    uri=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) "$(ORIGIN)" $(REPO_URI)' 'Created-By: Packages' |
        sed -n "s/^\($own\|stable\|oldstable\) main \"\(Debian\)\?\" //p" | head -1)
    case $uri in
    mirror*) uri=$(sed -n 's/^\([a-z]*:[^ \t]*\).*/\1/p' "${uri#mirror+file:}" | head -1) ;;
    esac
    [ -n "$uri" ] || fail "no source of $own main in the machine's apt sources"
    echo "deb [signed-by=$keyring] $uri $1 main"
}

# Run apt for a kernel, with lists and a status of its own: apt_of KERNEL COMMAND...
apt_of() {
    local state=$cache/apt/$1 command=$2 architecture
    architecture=$(architecture_of "$1")
    shift 2
    "$command" -q -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" \
        -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State="$state" -o Dir::State::status="$state/status" -o Dir::Cache="$state/cache" \
        -o APT::Sandbox::User=root -o Acquire::Languages=none "$@"
}

fetch_kernel() {
    local kernel=$1 new=$cache/kernels/$1.new packages version module path number
    rm -rf "$new" "$cache/apt/$kernel"
    mkdir -p "$new/debs" "$new/tree" "$new/initrd.d/modules" "$cache/apt/$kernel/cache/archives"
    source_of "${kernel%-arm64}" >"$cache/apt/$kernel/sources.list"
    : >"$cache/apt/$kernel/status"
    apt_of "$kernel" apt-get update >&2
    version=$(apt_of "$kernel" apt-cache depends "linux-image-cloud-$(architecture_of "$kernel")" |
        sed -n 's/ *Depends: linux-image-\([0-9]\)/\1/p')
    # Newer ones are in several packages: linux-binary-VERSION, linux-modules-VERSION.
    mapfile -t packages < <(apt_of "$kernel" apt-cache depends "linux-image-$version" |
        sed -n "s/.*Depends: \(linux-[a-z]*-$version\)$/\1/p")
    (cd "$new/debs" &&
        apt_of "$kernel" apt-get download "linux-image-$version" "${packages[@]}" busybox-static >&2)
    for path in "$new"/debs/*.deb; do dpkg-deb --extract "$path" "$new/tree"; done

    # Since Debian 13 modules are below /usr.
    mkdir -p "$new/lib"
    for path in "$new"/tree/lib/modules "$new"/tree/usr/lib/modules; do
        if [ -d "$path" ]; then mv "$path" "$new/lib/modules"; fi
    done
    find "$new/tree" "$new/lib" -type f -name 'vmlinuz*' -exec mv {} "$new/vmlinuz" \;
    depmod -b "$new" "$version"

    # modules/NUMBER-NAME.ko in the order of their needs; /init is added by who boots.
    find "$new/tree" -path '*/bin/busybox' -exec mv {} "$new/initrd.d/busybox" \;
    for module in "${initrd_modules[@]}"; do modprobe -d "$new" -S "$version" --show-depends "$module"; done |
        awk '$1 == "insmod" && !seen[$2]++ { print NR + 100, $2 }' |
        while read -r number path; do
            module=$new/initrd.d/modules/$number-$(basename "${path%%.ko*}").ko
            case $path in
            *.xz) xz -dc "$path" ;;
            *.zst) zstd -dc "$path" ;;
            *.gz) gzip -dc "$path" ;;
            *) cat "$path" ;;
            esac >"$module"
        done
    (cd "$new/initrd.d" && find . | cpio --quiet -o -H newc) >"$new/initrd"
    rm -rf "$new/debs" "$new/tree" "$new/initrd.d" "$cache/apt/$kernel"
    rm -rf "$cache/kernels/$kernel"
    mv "$new" "$cache/kernels/$kernel"
}

# Print the packages of a root, those that +NAME stands for included.
packages_of() {
    local words word
    read -ra words <<<"$(sed -n "s/^$1 [^ ]* //p" "$here/roots.txt")"
    for word in "${words[@]}"; do
        case $word in
        +*) packages_of "${word#+}" ;;
        *) echo "$word" ;;
        esac
    done
}

recipe_of() { echo "$1 $(packages_of "$1" | sort -u | xargs)"; }
suite_of() { sed -n "s/^$1 \([^ ]*\) .*/\1/p" "$here/roots.txt"; }

# Have the dpkg of a root know which package has brought a file: for packages that are only unpacked.
# shellcheck disable=SC2016 # for mmdebstrap, which says where the root is
tell_dpkg='cd "$1/var/lib/dpkg" && echo 1 >info/format && for deb in "$1"/var/cache/apt/archives/*.deb; do
    name=$(dpkg-deb --show --showformat="\${Package}" "$deb")
    case $(dpkg-deb --field "$deb" Multi-Arch) in same) name=$name:arm64 ;; esac
    dpkg-deb --fsys-tarfile "$deb" | tar --list | sed "s,^\./,/,; s,/\$,,; s,^\$,/.," >"info/$name.list"
    { dpkg-deb --field "$deb" | sed "/^Package:/a Status: install ok unpacked"; echo; } >>status
done'

fetch_root() {
    local root=$cache/roots/$1 suite how=(--variant=minbase)
    suite=$(suite_of "$1")
    # Nothing of it can be run before there is a processor for it.
    case $1 in *-arm64) how=(--variant=extract --architectures=arm64 --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --extract-hook="$tell_dpkg") ;; esac
    mkdir -p "$cache/roots"
    rm -rf "$root.new" "$root.recipe"
    # How the machine's apt reaches a mirror counts for mmdebstrap as well.
    apt-config dump | sed -n '/^Acquire::\(http\|https\|Check-[A-Za-z-]*\|Retries\)\(::[^ ]*\)\? ".\+";$/p' \
        >"$cache/roots/$1.apt.conf"
    mmdebstrap --quiet "${how[@]}" --format=directory \
        --aptopt="$cache/roots/$1.apt.conf" --include="$(packages_of "$1" | sort -u | xargs | tr ' ' ,)" \
        "$suite" "$root.new" "$(source_of "$suite")" >&2
    rm -f "$cache/roots/$1.apt.conf"
    # Where who boots puts the kernel's modules, the checkout, and what a guest hands out.
    mkdir -p "$root.new/usr/lib/modules" "$root.new/checkout" "$root.new/out"
    rm -f "$root.new/etc/resolv.conf" "$root.new/etc/hostname"
    printf '127.0.0.1 localhost guest\n::1 localhost\n' >"$root.new/etc/hosts"
    rm -rf "$root"
    mv "$root.new" "$root"
    recipe_of "$1" >"$root.recipe"
}

has_recipe() { [ -d "$cache/roots/$1" ] && recipe_of "$1" | cmp -s "$cache/roots/$1.recipe" -; }

is_there() {
    local name=${1#*/}
    case $1 in
    kernel/*) [ -d "$cache/kernels/$name" ] ;;
    root/*-arm64) [ -e "$cache/roots/$name/var/lib/dpkg/info/libc6:arm64.list" ] && has_recipe "$name" ;;
    root/*) has_recipe "$name" ;;
    esac
}

install_programs() {
    local missing=() line thing package needed=(
        "/usr/bin/mmdebstrap mmdebstrap"
        "/usr/bin/cpio cpio"
        "/usr/bin/xz xz-utils"
        "/usr/bin/zstd zstd"
        "/usr/lib/qemu/virtiofsd qemu-system-common"
        "/usr/bin/qemu-system-x86_64 qemu-system-x86"
        "/usr/sbin/mkfs.ext4 e2fsprogs"
        "/usr/sbin/modprobe kmod"
        "$keyring debian-archive-keyring"
    )
    case $* in
    *-arm64*) needed+=("/usr/bin/qemu-system-aarch64 qemu-system-arm" "/usr/bin/qemu-aarch64-static qemu-user-static") ;;
    esac
    for line in "${needed[@]}"; do
        read -r thing package <<<"$line"
        [ -e "$thing" ] || missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >&2
    apt-get install -q -y --no-install-recommends --no-remove "${missing[@]}" >&2
}

renew='' check=''
case ${1-} in
--renew) renew=yes && shift ;;
--check) check=yes && shift ;;
-* | "") sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" && exit 2 ;;
esac
for thing in "$@"; do
    case $thing in
    kernel/bullseye | kernel/bookworm | kernel/trixie | kernel/sid | kernel/bookworm-arm64) ;;
    root/*) [ -n "$(suite_of "${thing#root/}")" ] || fail "no root ${thing#root/} in $here/roots.txt" ;;
    *) fail "$thing is neither kernel/SUITE nor root/NAME" ;;
    esac
    [ -z "$check" ] || is_there "$thing" || fail "$thing is not in $cache: tests/vm/fetch.sh $thing"
done
if [ -n "$check" ]; then exit 0; fi

[ "$(id -u)" -eq 0 ] || fail "must be root, to unpack roots"
install_programs "$@"
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
for thing in "$@"; do
    if [ -z "$renew" ] && is_there "$thing"; then continue; fi
    say "fetching $thing to $cache"
    "fetch_${thing%%/*}" "${thing#*/}"
done

#!/bin/bash
# Set up whatever the tests need and run all of them, as root on a Debian 12 machine.
#
#   tests/run.sh                                  everything, with the plugin that build.sh made
#   tests/run.sh tests/kernel -k gc --plugin source    arguments go to pytest
#   tests/run.sh --soak                           the long forms, too: an hour or two
#
# Installs missing packages by apt, keeps Python's in .venv, makes dist/ by build.sh, and runs
# pytest in a private host (bin/private_host.sh): interfaces, nftables, CNI's directories and
# containers of the machine are never touched, and all that tests make vanishes with the run.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

say() { printf '\n== %s\n' "$*" >&2; }

if [ "$(id -u)" -ne 0 ]; then
    echo "tests/run.sh: must be root, to make namespaces and run containers" >&2
    exit 1
fi

# What must be there, and the package that brings it. Looked for by file and not by package,
# so that a machine with somebody else's containerd or Go keeps it.
needed=(
    "busybox busybox-static"
    "chromium chromium"
    "containerd containerd"
    "ctr containerd"
    "dbus-daemon dbus-daemon"
    "gcc gcc"
    "go golang-go"
    "ip iproute2"
    "iperf3 iperf3"
    "groff groff-base"
    "iptables iptables"
    "mandoc mandoc"
    "nft nftables"
    "pgrep procps"
    "podman podman"
    "python3 python3"
    "prometheus prometheus"
    "promtool prometheus"
    "qemu-x86_64-static qemu-user-static"
    "runc runc"
    "setpriv util-linux"
    "strace strace"
    "systemd-analyze systemd"
    "tcpdump tcpdump"
    "tmux tmux"
    "/usr/include/stdlib.h libc6-dev"
    "/usr/lib/python3/dist-packages/dbus python3-dbus"
    "/usr/lib/python3/dist-packages/gi python3-gi"
    "/usr/lib/cni/ptp containernetworking-plugins"
    "/usr/lib/python3.11/ensurepip python3-venv"
    "/usr/share/gocode/src/github.com/containernetworking/cni/libcni golang-github-appc-cni-dev"
)
case " $* " in *" --soak "*) needed+=("lintian lintian") ;; esac
missing=()
for line in "${needed[@]}"; do
    read -r thing package <<<"$line"
    case $thing in
    /*) [ -e "$thing" ] ;;
    *) command -v "$thing" >/dev/null ;;
    esac || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    # --no-remove: rather fail than take away somebody's other container runtime
    apt-get install -q -y --no-install-recommends --no-remove "${missing[@]}"
fi

say "firewalls"
tests/fetch_firewalls.sh

say "Python packages"
if [ ! -x .venv/bin/python ]; then /usr/bin/python3 -m venv .venv; fi
stamp=.venv/.installed-for-tests
if ! sha256sum --status --check "$stamp" 2>/dev/null; then
    .venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes \
        -r requirements/test.txt
    sha256sum requirements/test.txt >"$stamp"
fi

# Here, for a private host has no network.
mapfile -t kernels_and_roots < <(.venv/bin/python -m tests.vm.selection "$@")
if [ -n "${kernels_and_roots[*]}" ]; then
    say "Debian's kernels and other releases"
    tests/vm/fetch.sh "${kernels_and_roots[@]}"
fi
case ${kernels_and_roots[*]} in
*-arm64*) say "arm64" && tests/roots/build_arm64.py ;;
esac

say "build.sh"
./build.sh --deb

say "tests"
# The caller's --plugin comes later and so wins.
if [ "${*:---soak}" != --soak ]; then
    exec bin/private_host.sh .venv/bin/python -m pytest --plugin both "$@"
fi
# A whole run is spread over as many private hosts as there are processors: a part takes one file
# after the other, those that boot machines first.
hosts="$(nproc)*popen//python=bin/private_host.sh .venv/bin/python"
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
.venv/bin/python -m pytest --plugin both --dist loadfile --no-loadscope-reorder --tx "$hosts" "$@"

#!/bin/bash
# Run a command in a private host: as root, on a machine that must not notice.
#
#   bin/private_host.sh COMMAND [ARGUMENT...]
#
# The command gets network, mount and process namespaces of its own: an empty network with
# `lo` up, its own /run, and a private view of /etc, /opt, /usr and /var/lib, where whatever
# it writes (network namespaces, CNI configuration, programs, leases, containers) goes to
# memory; other file systems mounted below /usr are read-only. All of it, daemons included,
# vanishes with the command: on success, failure, Ctrl-C or kill. Only these sources are
# written to where they are. /run/faasm-private-host tells programs that they are inside.
# May be nested; what one inside writes to those four folders, the one around it sees. Several
# may run side by side: the marker holds a name that no other has, for the one thing that cannot
# be private, control groups.
set -euo pipefail

marker=/run/faasm-private-host

inside() {
    # A process that is number 1 has no default signal actions: without these, Ctrl-C
    # would end the command but not the daemons that it started.
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap 'exit 129' HUP

    nested=
    if [ -e "$marker" ]; then nested=yes; fi

    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/netns /run/lock /run/home
    mkdir -m 1777 /run/tmp
    printf '%s\n' "$1" >"$marker"
    shift

    if [ -z "$nested" ]; then
        # An overlay shows one file system: what is mounted upon it is held open, for later.
        shown=()
        while read -r _ _ _ _ directory _; do
            printf -v directory %b "$directory" # \040 is a space
            case $directory in
            /usr/*) if [ -e "$directory" ]; then shown+=("$directory"); fi ;;
            esac
        done </proc/self/mountinfo
        sources=$(cd "$(dirname "$0")/.." && pwd -P)
        case $sources in /etc/* | /opt/* | /usr/* | /var/lib/*) shown+=("$sources") ;; esac
        opened=()
        for directory in "${shown[@]}"; do
            exec {descriptor}<"$directory"
            opened+=("$descriptor")
        done
        for directory in /etc /opt /usr /var/lib; do
            layer=/run/layers$directory
            mkdir -p "$layer/upper" "$layer/work"
            mount -t overlay -o "lowerdir=$directory,upperdir=$layer/upper,workdir=$layer/work" \
                overlay "$directory"
        done
        for index in "${!shown[@]}"; do
            directory=${shown[index]} descriptor=${opened[index]}
            mount --no-canonicalize --bind "/proc/self/fd/$descriptor" "$directory"
            if [ "$directory" != "$sources" ]; then mount -o remount,bind,ro "$directory"; fi
            exec {descriptor}<&-
        done
    fi
    for directory in /etc/cni /etc/netns /opt/cni /var/lib/cni /var/lib/containers /var/lib/containerd; do
        mkdir -p "$directory"
        mount -t tmpfs -o mode=755 tmpfs "$directory"
    done
    mkdir -p /etc/cni/net.d /opt/cni/bin

    ip link set lo up
    status=0
    TMPDIR=/run/tmp HOME=/run/home XDG_RUNTIME_DIR='' "$@" || status=$?
    exit "$status"
}

if [ "${1-}" = --inside ]; then
    shift
    inside "$@"
fi

if [ $# -eq 0 ] || [ "$1" = --help ]; then
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
    exit 2
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "${0##*/}: must be root, to make namespaces" >&2
    exit 1
fi

# unshare holds SIGINT and SIGTERM back while its child runs, and a shell runs its traps only
# when its foreground command is done. So it runs in the background, where a shell would
# have SIGINT ignored and stdin closed: both are given back. When this script goes, so does
# unshare (--pdeathsig); when unshare goes, so does process 1 inside (--kill-child), and
# every other process inside with it.
read -r name </proc/sys/kernel/random/uuid
name=faasm-private-host-${name%%-*}
env --default-signal=INT,QUIT setpriv --pdeathsig KILL \
    unshare --net --mount --pid --ipc --propagation private \
    --fork --kill-child=KILL --mount-proc "$0" --inside "$name" "$@" <&0 &
child=$!
interrupted=0
trap 'interrupted=130' INT
trap 'interrupted=143' TERM
trap 'interrupted=129' HUP

# What runs inside keeps its control groups below one of this name.
remove_cgroups() {
    for _ in {1..20}; do # those just killed may need a moment
        left=$(find /sys/fs/cgroup -depth -type d -path "*/$name*" 2>/dev/null) || true
        [ -n "$left" ] || return 0
        while IFS= read -r directory; do
            rmdir "$directory" 2>/dev/null || true
        done <<<"$left"
        sleep 0.05
    done
}

status=0
wait "$child" || status=$?
if [ "$interrupted" -ne 0 ]; then
    # Ctrl-C has reached the command as well: it gets time to tidy up and to report.
    if [ "$interrupted" -eq 130 ]; then
        for _ in {1..200}; do
            kill -0 "$child" 2>/dev/null || break
            sleep 0.1
        done
    fi
    kill -KILL "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
    status=$interrupted
fi
remove_cgroups
exit "$status"

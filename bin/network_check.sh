#!/bin/sh
# Check the rules and the throughput of the first namespaces of the pool, as root.
#
#   bin/network_check.sh SERVER_IP [OPTION...]
#
# SERVER_IP is a machine that runs `cni-faasm iperf-servers 3`. Options are those of
# `cni-faasm network-check`, which this calls: from the bundle that ./build.sh made, an
# installed one, or the development environment, whichever is found first.
set -eu

top=$(dirname "$0")/..
for tool in "$top/dist/faasm/cni-faasm" /usr/lib/cni-faasm/cni-faasm "$top/.venv/bin/cni-faasm"; do
    if [ -x "$tool" ]; then
        if [ $# -eq 0 ]; then set -- --help; fi
        exec "$tool" network-check "$@"
    fi
done
echo "network_check.sh: there is no cni-faasm; make one with ./build.sh" >&2
exit 1

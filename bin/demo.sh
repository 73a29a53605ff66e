#!/bin/bash
# Show the plugin at work, as root: three containers' networks, shaped and measured.
#
#   bin/demo.sh
#
# Builds the plugin if needed and runs bin/demo.py in a private host (bin/private_host.sh), so
# that the machine's own network, nftables and CNI directories are never touched. Takes about
# a minute after the build. The exit status is 0 only if everything is as promised.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

if [ "$(id -u)" -ne 0 ]; then
    echo "bin/demo.sh: must be root, to make network namespaces" >&2
    exit 1
fi

missing=()
for line in "ip iproute2" "iperf3 iperf3" "nft nftables" "python3 python3"; do
    read -r command package <<<"$line"
    command -v "$command" >/dev/null || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    echo "demo: installing ${missing[*]}" >&2
    apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
fi

# FAASM_BUNDLE: show another bundle, like an installed one in /usr/lib/cni-faasm.
if [ -z "${FAASM_BUNDLE-}" ]; then ./build.sh; fi

exec bin/private_host.sh /usr/bin/python3 bin/demo.py "$@"

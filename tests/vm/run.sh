#!/bin/bash
# Run the checks on Debian's kernels, as root on a Debian 12 machine.
#
#   tests/vm/run.sh                        on those that every run of the tests boots
#   tests/vm/run.sh bullseye trixie        on these
#   tests/vm/run.sh bookworm -k drift      what follows goes to pytest
#   tests/vm/run.sh --soak                 on all, and more of them
set -euo pipefail

kernels=()
while [ $# -gt 0 ] && [[ $1 != -* ]]; do
    kernels+=("$1")
    shift
done
list=$(IFS=, && echo "${kernels[*]}")
exec "$(dirname "${BASH_SOURCE[0]}")/../run.sh" tests/vm ${list:+--kernels "$list"} "$@"

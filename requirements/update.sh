#!/bin/sh
# Writes requirements/*.txt anew from the ranges in pyproject.toml: exact versions, a hash
# for every file of each, no index addresses (those are the machine's own business).
# Versions that are pinned already stay, unless --upgrade is given.
set -eu
cd "$(dirname "$0")/.."

compile() { # NAME WHAT-FOR OPTION...
    out=requirements/$1.txt
    what=$2
    shift 2
    .venv/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras \
        --no-emit-options --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
        --no-header --no-annotate --output-file "$out" "$@" pyproject.toml
    # pip-compile reads the old file for its pins, so the heading is put there afterwards.
    printf '# %s\n# Written by requirements/update.sh from pyproject.toml.\n%s\n' \
        "$what" "$(grep -v '^#' "$out")" >"$out.new"
    mv "$out.new" "$out"
}

# Each list holds the one before it at the same versions, so that they go into one .venv.
compile runtime "What the operator's tool imports." "$@"
compile build "What build.sh needs: the above and PyInstaller." \
    --constraint requirements/runtime.txt --extra build "$@"
compile test "What the tests need: the above and the checkers." \
    --constraint requirements/build.txt --extra build --extra test "$@"

#!/bin/sh
# Makes dist/faasm/ (the bundle: plugin, tool, shared contents) and from it an archive.
#
#   ./build.sh                          build; quick when nothing changed
#   ./build.sh --deb                    build, then make a Debian package of it in dist/
#   ./build.sh --install [--destdir D]  build, then put it where runtimes look
#   ./build.sh --uninstall [--destdir D]
#   ./build.sh --clean                  remove what building made, but not .venv
#
# A bare Debian 12 is enough: what is missing is installed by apt (as root) and, at exact
# versions with hashes, into .venv.
set -eu

cd "$(dirname "$0")"
# One at a time: the next one finds everything up to date.
exec 9<build.sh
flock 9
umask 022
export LC_ALL=C.UTF-8
# Debian's own interpreter: optimised more than a local build, and with the shared library.
python=/usr/bin/python3
arch=$(uname -m)
documents="README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE"

say() { printf 'build.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

usage() {
    sed -n '2,/^set -eu/{/^#/s/^# \{0,1\}//p}' "$0"
}

install_packages() {
    missing=
    [ -x "$python" ] || missing="$missing python3"
    "$python" -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
    ls /usr/lib/*/libpython3.*.so.1.0 >/dev/null 2>&1 || missing="$missing libpython3.11"
    ls /usr/lib/python3.*/config-3.*/libpython3.*.a >/dev/null 2>&1 || missing="$missing libpython3.11-dev"
    command -v objcopy >/dev/null || missing="$missing binutils"
    ls /usr/lib/*/libz.a >/dev/null 2>&1 || missing="$missing zlib1g-dev"
    command -v gcc >/dev/null || missing="$missing gcc"
    [ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
    [ -s /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
    [ -n "$missing" ] || return 0
    [ "$(id -u)" = 0 ] || die "please install as root:$missing"
    say "apt-get install$missing"
    apt-get update -q >&2
    # shellcheck disable=SC2086  # a list
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing >&2
}

# Makes .venv from Debian's Python with everything requirements/build.txt names.
prepare_venv() {
    wanted=$(sha256sum requirements/build.txt)
    if [ "$(cat .venv/.build-requirements 2>/dev/null)" = "$wanted" ]; then
        return 0
    fi
    if [ "$(.venv/bin/python -c 'import sys; print(sys.base_prefix)' 2>/dev/null)" != /usr ]; then
        say "making .venv"
        "$python" -m venv --clear .venv
    fi
    say "installing requirements/build.txt into .venv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
        -r requirements/build.txt >&2
    printf '%s\n' "$wanted" >.venv/.build-requirements
}

# Tells which libraries are linked into the executables.
static_libraries() {
    stat -L -c '%n %s %Y' /usr/lib/python3.*/config-3.*/libpython3.*.a /usr/lib/*/libexpat.a /usr/lib/*/libz.a
}

# Fetches the sources of what is compiled into the plugin; prints their folder.
prepare_simplejson() {
    wanted=$(cat packaging/sources.py requirements/build.txt | sha256sum)
    if [ "$(cat .venv/simplejson/stamp 2>/dev/null)" != "$wanted" ]; then
        rm -rf .venv/simplejson
        .venv/bin/python packaging/sources.py simplejson .venv/simplejson >/dev/null
        printf '%s\n' "$wanted" >.venv/simplejson/stamp
    fi
    find "$PWD/.venv/simplejson" -mindepth 1 -maxdepth 1 -type d
}

# Compiles the bootloader into .venv/bootloader, where it stays for the next build.
prepare_bootloader() {
    wanted=$({
        cat packaging/bootloader.py packaging/sources.py packaging/*.c requirements/build.txt
        static_libraries
    } | sha256sum)
    if [ "$(cat .venv/bootloader/stamp 2>/dev/null)" = "$wanted" ]; then
        return 0
    fi
    say "compiling the bootloader"
    rm -rf .venv/bootloader
    mkdir .venv/bootloader
    .venv/bin/python packaging/bootloader.py .venv/bootloader >&2
    printf '%s\n' "$wanted" >.venv/bootloader/stamp
}

# Prints one hash over everything that the bundle depends on.
inputs() {
    {
        find cni_faasm packaging conf deploy/systemd deploy/completion deploy/monitoring docs -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum
        # shellcheck disable=SC2086  # a list
        sha256sum build.sh requirements/build.txt $documents
        "$python" -VV
        # The interpreter and Debian's libraries that go into the bundle.
        static_libraries 2>/dev/null || :
        stat -L -c '%n %s %Y' "$python" /usr/lib/*/libc.so.6 /usr/lib/*/libgcc_s.so.1 \
            /usr/lib/*/libffi.so.8 /usr/lib/*/libssl.so.3 /usr/lib/*/libc.a 2>/dev/null || :
    } | sha256sum | cut -d' ' -f1
}

outputs_are_there() {
    [ -x dist/faasm/faasm ] && [ -x dist/faasm/cni-faasm ] && [ -d dist/faasm/_internal ] &&
        [ -f "dist/$archive" ] && [ -f "dist/$archive.sha256" ] && [ -f "dist/$bill" ] &&
        [ -f dist/SHA256SUMS ]
}

# Writes dist/SHA256SUMS, of all that is there to be handed on.
write_sums() {
    (cd dist && sha256sum cni-faasm[-_]*"$version"*[!6] >SHA256SUMS.new && mv SHA256SUMS.new SHA256SUMS)
}

build() {
    version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' cni_faasm/__init__.py)
    [ -n "$version" ] || die "cni_faasm/__init__.py names no version"
    archive=cni-faasm-$version-$arch.tar.gz
    bill=cni-faasm-$version-$arch.cdx.json
    hash=$(inputs 2>/dev/null) || hash=
    if [ -n "$hash" ] && [ "$(cat build/stamp 2>/dev/null)" = "$hash" ] && outputs_are_there; then
        say "dist/faasm is up to date"
        return 0
    fi
    install_packages
    prepare_venv
    prepare_bootloader
    simplejson=$(prepare_simplejson)
    hash=$(inputs)

    # The same sources give the same bytes at any time: no random order of sets, no times
    # but this one, no columns in the line tables.
    export SOURCE_DATE_EPOCH=1704067200
    export PYTHONHASHSEED=0 PYTHONNODEBUGRANGES=1 PYTHONDONTWRITEBYTECODE=1
    export PYINSTALLER_CONFIG_DIR="$PWD/build/cache"
    rm -rf build
    mkdir -p build/dist
    say "building dist/faasm"
    if ! .venv/bin/python -m PyInstaller --noconfirm --log-level WARN \
        --workpath build --distpath build/dist packaging/faasm.spec >build/log 2>&1; then
        cat build/log >&2
        die "PyInstaller failed"
    fi
    if ! "$python" packaging/snapshot/build.py "$simplejson" build/snapshot >build/log 2>&1; then
        cat build/log >&2
        die "the plugin cannot be made"
    fi
    cp build/snapshot/faasm build/dist/faasm/faasm
    .venv/bin/python packaging/contents.py build/faasm/origins build "$SOURCE_DATE_EPOCH" >&2
    mv build/sbom.cdx.json "build/dist/$bill"
    # shellcheck disable=SC2086  # a list
    cp -R $documents docs conf deploy/monitoring build/licenses build/dist/faasm # docs/ points to conf/
    find build/dist/faasm -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    tar -C build/dist --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
        --mode=go=rX,u+rw --format=gnu --transform "s,^faasm,cni-faasm-$version," -cf - faasm |
        gzip -9n >"build/dist/$archive"
    (cd build/dist && sha256sum "$archive" >"$archive.sha256")
    rm -rf dist
    mv build/dist dist
    write_sums
    printf '%s\n' "$hash" >build/stamp
    say "made dist/faasm and dist/$archive"
}

action=build
destdir=/
while [ $# -gt 0 ]; do
    case $1 in
        --deb) action=deb ;;
        --install) action=install ;;
        --uninstall) action=uninstall ;;
        --clean) action=clean ;;
        --destdir) [ $# -gt 1 ] || die "--destdir needs a folder"; destdir=$2; shift ;;
        --destdir=*) destdir=${1#*=} ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done

case $action in
    build) build ;;
    deb)
        build
        deploy/debian/package.sh "$version"
        write_sums
        ;;
    install) build; dist/faasm/cni-faasm install --destdir "$destdir" ;;
    uninstall)
        tool=$destdir/usr/lib/cni-faasm/cni-faasm
        if [ ! -x "$tool" ]; then
            build
            tool=dist/faasm/cni-faasm
        fi
        "$tool" uninstall --destdir "$destdir"
        ;;
    clean) rm -rf build dist ;;
esac

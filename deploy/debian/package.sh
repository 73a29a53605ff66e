#!/bin/sh
# Makes a Debian package of dist/faasm, beside it; called by build.sh --deb.
#
#   deploy/debian/package.sh VERSION
#
# The files are those of cni-faasm install. The same sources give the same bytes: the time is that
# of SOURCE_DATE_EPOCH, or else of the last commit that changed any of it, or else of the bundle.
set -eu

version=$1
cd "$(dirname "$0")/../.."
here=deploy/debian
umask 022
export LC_ALL=C.UTF-8
if [ -z "${SOURCE_DATE_EPOCH-}" ]; then
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct -- build.sh cni_faasm conf deploy docs packaging \
        requirements ./*.md 2>/dev/null) || SOURCE_DATE_EPOCH=
    [ -n "$SOURCE_DATE_EPOCH" ] || SOURCE_DATE_EPOCH=$(stat -c %Y dist/faasm)
fi
export SOURCE_DATE_EPOCH
architecture=$(dpkg --print-architecture)
package=cni-faasm_${version}_$architecture.deb
stamp=$(cat dist/cni-faasm-"$version"-*.sha256 $here/* | sha256sum)$SOURCE_DATE_EPOCH
if [ "$(cat build/deb.stamp 2>/dev/null)" = "$stamp" ] && [ -f "dist/$package" ]; then
    echo "build.sh: dist/$package is up to date" >&2
    exit 0
fi

tree=build/deb
rm -rf $tree
mkdir -p $tree/DEBIAN
dist/faasm/cni-faasm install --destdir $tree >/dev/null
rm $tree/usr/lib/cni-faasm/installed.json
# dpkg keeps what an operator changes here; the scripts link it to where runtimes look.
mkdir -p $tree/etc/cni-faasm
mv $tree/etc/cni/net.d/10-faasm.conflist $tree/etc/cni-faasm
rmdir -p $tree/etc/cni/net.d 2>/dev/null || :
# Of two top folders: absolute, as Debian's policy wants it.
ln -sf /usr/lib/cni-faasm/faasm $tree/opt/cni/bin/faasm
find $tree/usr/lib/cni-faasm/_internal -name '*.so*' -exec chmod a-x {} +
# Where Debian's containerd looks, whether or not other plugins are there already.
mkdir -p $tree/usr/lib/cni
ln -s ../cni-faasm/faasm $tree/usr/lib/cni/faasm

doc=$tree/usr/share/doc/cni-faasm
mkdir -p $doc $tree/usr/share/lintian/overrides
cp $here/copyright $doc/copyright
cp $here/lintian-overrides $tree/usr/share/lintian/overrides/cni-faasm
for name in docs README.md CHANGELOG.md SECURITY.md; do
    ln -s "../../../lib/cni-faasm/$name" "$doc/$name"
done
{
    echo "cni-faasm ($version) unstable; urgency=medium"
    printf '\n  * What changed is in /usr/lib/cni-faasm/CHANGELOG.md.\n\n'
    sed -n 's/^Maintainer: / -- /p' $here/control | tr '\n' ' '
    date -u -R -d "@$SOURCE_DATE_EPOCH" | sed 's/^/ /'
} | gzip -9n >$doc/changelog.gz

# As dpkg-gencontrol counts: what a folder takes is another thing on each file system.
size=$(find $tree -path $tree/DEBIAN -prune -o -printf '%y %s\n' |
    awk '{ kib += $1 == "f" ? int(($2 + 1023) / 1024) : 1 } END { print kib }')
sed "s/@VERSION@/$version/; s/@ARCHITECTURE@/$architecture/; s/@SIZE@/$size/" $here/control \
    >$tree/DEBIAN/control
echo /etc/cni-faasm/10-faasm.conflist >$tree/DEBIAN/conffiles
install -m 755 $here/preinst $here/postinst $here/prerm $here/postrm $tree/DEBIAN
(cd $tree && find . -path ./DEBIAN -prune -o -type f ! -path './etc/*' -printf '%P\0' |
    sort -z | xargs -0 md5sum) >$tree/DEBIAN/md5sums
find $tree -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group --threads-max=1 -Zxz --build $tree "build/$package" >&2
mv "build/$package" dist
rm -rf $tree
printf '%s' "$stamp" >build/deb.stamp

#!/usr/bin/python3
"""Build the bundle for arm64, by build.sh in a root of that processor, which qemu-user emulates.

    tests/roots/build_arm64.py        prints the folder: dist/faasm of a checkout in the cache

The root is tests/vm/fetch.sh's bookworm-arm64. What it takes is kept for the next time: .venv, and
the compiled bootloader in it. The kernel hands programs of another processor to an emulator that
binfmt_misc names; where the machine has none, one is named in a user namespace of the build's own
(since Linux 6.7), in which ids are what they are outside. Only the standard library is used.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.vm.boot import CACHE, REPO
from tests.vm.selection import ARM64

KERNEL = ARM64
ROOT = CACHE / "roots" / ARM64
CHECKOUT = CACHE / "arm64" / "checkout"
BUNDLE = CHECKOUT / "dist" / "faasm"
LAYER = CACHE / "arm64" / "layer"  # what the build writes to the root
KEPT = (".venv", "build", "dist")

REGISTERED = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
# The head of an executable for arm64 and which bits of it count; see the kernel's binfmt-misc.rst.
MAGIC = r"\x7fELF\x02\x01\x01" + r"\x00" * 9 + r"\x02\x00\xb7\x00"
MASK = r"\xff" * 7 + r"\x00" + r"\xff" * 8 + r"\xfe\xff\xff\xff"
EMULATOR = f":faasm-aarch64:M::{MAGIC}:{MASK}:/usr/bin/qemu-aarch64-static:OPCF\n"

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
ALL_IDS = "0 0 4294967294\n"

# In the new namespaces, as their first process. The kernel itself reads what EMULATOR escapes.
NAME_EMULATOR = f"""mount -t binfmt_misc binfmt_misc {REGISTERED.parent}
printf '%s' '{EMULATOR}' >{REGISTERED.parent}/register
"""
# A layer over the root; in it the checkout, and how the machine reaches others.
BUILD = """mount -t overlay -o lowerdir={root},upperdir={layer}/upper,workdir={layer}/work overlay {top}
mount -t proc proc {top}/proc
for file in null zero full random urandom; do
    [ -e {top}/dev/$file ] || : >{top}/dev/$file
    mount --bind /dev/$file {top}/dev/$file
done
mount --bind {checkout} {top}/checkout
cd {top}
cp /etc/resolv.conf /etc/hosts etc/
cp usr/share/base-passwd/passwd.master etc/passwd
cp usr/share/base-passwd/group.master etc/group
mkdir -p etc/ssl/certs etc/xdg
cp /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/
for file in pip.conf xdg/pip; do [ ! -e /etc/$file ] || cp -r /etc/$file etc/xdg/; done
chroot {top} ldconfig
exec chroot {top} sh -c 'cd /checkout && exec ./build.sh'
"""


def copy_sources() -> None:
    """Put what git knows, and what it would, into the checkout; take out what is gone."""
    CHECKOUT.mkdir(parents=True, exist_ok=True)
    for path in CHECKOUT.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO,
        capture_output=True,
        check=True,
    )
    for name in map(os.fsdecode, filter(None, listed.stdout.split(b"\0"))):
        if (REPO / name).exists():
            (CHECKOUT / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, CHECKOUT / name, follow_symlinks=False)


def unshare(kinds: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(kinds) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "unshare")


def build() -> int:
    """Run build.sh in namespaces of its own; return its status."""
    shutil.rmtree(LAYER, ignore_errors=True)
    for name in ("upper", "work", "top"):
        (LAYER / name).mkdir(parents=True)
    own = not REGISTERED.exists()
    script = "set -e\nmount --make-rprivate /\n" + (NAME_EMULATOR if own else "")
    script += BUILD.format(root=ROOT, layer=LAYER, top=LAYER / "top", checkout=CHECKOUT)
    ready, ids_written = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        unshare(CLONE_NEWNS | CLONE_NEWPID | (CLONE_NEWUSER if own else 0))
        os.write(ready[1], b".")
        os.read(ids_written[0], 1)
        done = subprocess.run(
            ["sh", "-c", script], env=variables(), stdin=subprocess.DEVNULL, stdout=2, check=False
        )
        os._exit(done.returncode)
    os.read(ready[0], 1)
    if own:
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{kind}").write_text(ALL_IDS, encoding="ascii")
    os.write(ids_written[1], b".")
    _, status = os.waitpid(child, 0)
    shutil.rmtree(LAYER)
    return os.waitstatus_to_exitcode(status)


def variables() -> dict[str, str]:
    """Return the build's environment, and how pip reaches an index from this machine."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.lower().endswith("_proxy") or name.startswith("PIP_")
    }
    return {**kept, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}


def main() -> None:
    if not ROOT.is_dir():
        sys.exit(f"{ROOT} is not there: tests/vm/fetch.sh root/{ARM64}")
    copy_sources()
    status = build()
    if status != 0:
        sys.exit(f"build_arm64.py: build.sh ended with status {status}")
    print(BUNDLE)


if __name__ == "__main__":
    main()

#!/usr/bin/python3
"""Boot one of Debian's kernels in an emulated machine, without KVM, and have a job done in it.

    tests/vm/boot.py bookworm -- uname -a
    tests/vm/boot.py --root bookworm-systemd --systemd sid -- systemctl list-units
    tests/vm/boot.py --disk /tmp/disk.ext4 bookworm -- sh -c 'date >>/var/kept; cat /var/kept'

The kernel and the root are those that tests/vm/fetch.sh keeps. In the guest there are

    /            the root; what is written goes to memory, or to the disk, and is not shared
    /checkout    this checkout with .venv and dist, read-only
    /out         a folder of the host's, for results

and no network. One virtiofsd serves it all, in a mount namespace that puts it together.
Only the standard library is used.
"""

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

REPO = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("FAASM_VM_CACHE") or "/var/cache/cni-faasm-vm")
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
# What emulates a processor, as what kind of machine, and where that has its console.
X86_64 = (("qemu-system-x86_64", "-machine", "q35", "-cpu", "max"), "ttyS0")
ARM64 = (("qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a72"), "ttyAMA0")
# The kernel dies with the process that started it, whatever kills that.
TIED = ("setpriv", "--pdeathsig", "KILL", "--")


class GuestError(Exception):
    """Say what became of a guest that did not do its job, with the end of its console."""


class Guest:
    """Run one guest: `with Guest("bookworm", ["uname"]) as guest: guest.wait()`.

    kernel: the suite whose kernel it is; bookworm-arm64 is one for that processor.
    job: a command; its output goes to the console.
    root: a name of tests/vm/roots.txt; systemd: whether systemd is process 1.
    disk: a file that holds what the guest writes to its root; made when it is not there, and kept.
    out: the folder that the guest sees as /out; a temporary one when not given.
    checkout: what it sees as /checkout.
    timeout_s: after which the guest counts as hung; quiet_s: the same for no sign of life.

    The caller must live as long as the guest: the thread that starts it, too.
    """

    def __init__(
        self,
        kernel: str,
        job: Sequence[str],
        *,
        root: str = "bookworm",
        systemd: bool = False,
        disk: Path | None = None,
        out: Path | None = None,
        checkout: Path = REPO,
        memory_mb: int = 2048,
        processors: int = 1,
        timeout_s: float = 600,
        quiet_s: float = 180,
    ) -> None:
        self.kernel = kernel
        self.job = list(job)
        self.root = root
        self.systemd = systemd
        self.disk = disk
        self.memory_mb = memory_mb
        self.processors = processors
        self.timeout_s = timeout_s
        self.quiet_s = quiet_s
        self.folder = Path(tempfile.mkdtemp(prefix="faasm-guest-"))
        self.out = out or self.folder / "out"
        self.checkout = checkout
        self.console = self.folder / "console"
        self.began = 0.0
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Boot; return at once."""
        kernel, root = CACHE / "kernels" / self.kernel, CACHE / "roots" / self.root
        for path, thing in ((kernel, f"kernel/{self.kernel}"), (root, f"root/{self.root}")):
            if not path.exists():
                raise GuestError(f"{path} is not there: tests/vm/fetch.sh {thing}")
        self.out.mkdir(exist_ok=True)
        for name in ("status", "kernel", "uptime"):
            (self.out / name).unlink(missing_ok=True)
        (self.out / "job").write_text(shlex.join(self.job) + "\n")
        if self.disk is not None and not self.disk.exists():
            make_disk(self.disk)
        self.began = time.monotonic()
        socket = self._share(kernel, root)
        initrd = self.folder / "initrd"
        script = (REPO / "tests/vm/guest/initrd").read_bytes()
        initrd.write_bytes((kernel / "initrd").read_bytes() + archive_of_init(script))
        machine, console = ARM64 if self.kernel.endswith("-arm64") else X86_64
        words = [f"console={console}", "panic=-1", "loglevel=4", "mitigations=off"]
        words += ["init=systemd", "systemd.show_status=0"] if self.systemd else []
        words += ["layer=disk"] if self.disk else []
        size = f"{self.memory_mb}M"
        # fmt: off
        command = [
            *machine, "-accel", "tcg,thread=multi,tb-size=512",
            "-smp", str(self.processors), "-m", size,
            "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
            "-object", f"memory-backend-memfd,id=memory,size={size},share=on",
            "-numa", "node,memdev=memory",
            "-chardev", f"socket,id=shared,path={socket}",
            "-device", "vhost-user-fs-pci,chardev=shared,tag=shared",
            "-kernel", str(kernel / "vmlinuz"), "-initrd", str(initrd), "-append", " ".join(words),
        ]
        # fmt: on
        if self.disk is not None:
            command += ["-drive", f"file={self.disk},format=raw,if=virtio"]
        with self.console.open("ab") as output:
            self._spawn(command, output.fileno())

    def _share(self, kernel: Path, root: Path) -> Path:
        """Start the virtiofsd; return its socket."""
        top, socket = self.folder / "shared", self.folder / "socket"
        top.mkdir()
        modules = kernel / "lib/modules"
        script = (
            f"mount --bind {root} {top} && mount --bind {modules} {top}/usr/lib/modules && "
            f"mount --bind {self.checkout} {top}/checkout && mount --bind {self.out} {top}/out && "
            f"exec {VIRTIOFSD} --socket-path={socket} -o source={top} -o sandbox=chroot -o cache=always"
        )
        log = self.folder / "virtiofsd.log"
        with log.open("wb") as stream:
            process = self._spawn(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
                stream.fileno(),
            )
        while not socket.exists():
            if process.poll() is not None:
                raise GuestError(f"virtiofsd ended: {log.read_text(errors='replace')}")
            time.sleep(0.02)
        return socket

    def _spawn(self, command: list[str], output: int) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [*TIED, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def is_running(self) -> bool:
        """Say whether the guest's machine is switched on; GuestError when it counts as hung."""
        machine = self._processes[-1]
        if machine.poll() is not None:
            return False
        ran = time.monotonic() - self.began
        if ran > self.timeout_s:
            raise GuestError(f"the guest is not done after {self.timeout_s:.0f} s{self.tail()}")
        signs = (self.console, self.out / "results.jsonl")
        quiet = time.time() - max(path.stat().st_mtime for path in signs if path.exists())
        if quiet > self.quiet_s:
            raise GuestError(f"no sign of life of the guest for {self.quiet_s:.0f} s{self.tail()}")
        return True

    def wait(self) -> int:
        """Wait until the guest has switched itself off; return the status of its job.

        Raises: GuestError when it hangs, and when it ended without a status, by a panic.
        """
        while self.is_running():
            time.sleep(0.05)
        return self.status()

    def status(self) -> int:
        """Return the status of the job of a guest that has ended."""
        path = self.out / "status"
        if not path.exists():
            raise GuestError(f"the guest ended before its job did{self.tail()}")
        return int(path.read_text())

    def cut_power(self) -> None:
        """End the guest as a power cut does: what it had not written to its disk is lost."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()

    def tail(self, lines: int = 40) -> str:
        """Return the end of the console, under a line that says so."""
        text = self.console.read_text(errors="replace") if self.console.exists() else ""
        return f"\n-- the end of its console:\n{chr(10).join(text.splitlines()[-lines:])}"

    def close(self) -> None:
        """Switch the guest off and remove its temporary folder."""
        self.cut_power()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def make_disk(path: Path, size: str = "4G") -> None:
    """Make a file with an empty ext4 file system; it takes room only as it fills."""
    subprocess.run(["mkfs.ext4", "-q", "-F", str(path), size], check=True)


def archive_of_init(script: bytes) -> bytes:
    """Return a cpio archive ("newc") with an executable /init, to go behind another archive."""
    return archive_of({"init": script})


def archive_of(files: dict[str, bytes]) -> bytes:
    """Return a cpio archive ("newc") of executable files, to go behind another archive.

    Layout: struct cpio_newc_header, 13 fields of 8 hexadecimal digits; see the kernel's
    Documentation/driver-api/early-userspace/buffer-format.rst.
    """
    entries = [(name.encode(), 0o100755, data) for name, data in files.items()]
    packed = b""
    for number, (name, mode, data) in enumerate([*entries, (b"TRAILER!!!", 0, b"")]):
        size = len(name) + 1
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, size, 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        for part in (header + name + b"\0", data):
            packed += part + bytes(-len(part) % 4)
    return packed


def follow(guest: Guest) -> Iterator[bytes]:
    """Yield what comes on a guest's console until it has ended."""
    with guest.console.open("rb") as stream:
        while guest.is_running():
            yield stream.read()
            time.sleep(0.05)
        yield stream.read()


def main() -> int:
    """Boot as the command line says; return the status of the job."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kernel", help="bullseye, bookworm, trixie, sid, bookworm-arm64")
    parser.add_argument("job", nargs="+", help="the command to run, as root")
    parser.add_argument("--root", default="bookworm", help="a name of tests/vm/roots.txt")
    parser.add_argument("--systemd", action="store_true", help="with systemd as process 1")
    parser.add_argument("--disk", type=Path, help="keep what the guest writes in this file")
    parser.add_argument("--out", type=Path, help="the folder that the guest sees as /out")
    parser.add_argument("--memory", type=int, default=2048, metavar="MB")
    parser.add_argument("--processors", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    guest = Guest(
        options.kernel,
        options.job,
        root=options.root,
        systemd=options.systemd,
        disk=options.disk,
        out=options.out,
        memory_mb=options.memory,
        processors=options.processors,
        timeout_s=options.timeout,
        quiet_s=options.timeout,
    )
    try:
        with contextlib.suppress(KeyboardInterrupt), guest:
            for output in follow(guest):
                sys.stdout.buffer.write(output)
                sys.stdout.buffer.flush()
            return guest.status()
    except GuestError as error:
        print(f"boot.py: {error}", file=sys.stderr)
        return 125
    return 130


if __name__ == "__main__":
    sys.exit(main())

"""Test what only the built executables can get wrong: what they load, and from where."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.host import BUNDLE, REPO, SYSTEM_PATH, Host

PLUGIN = BUNDLE / "faasm"
TOOL = BUNDLE / "cni-faasm"
(LOADER,) = (BUNDLE / "_internal").glob("ld-linux-*.so.*")
NO_LIBRARIES = (
    *(LOADER.name, "libc.so.6", "libm.so.6", "libz.so.1"),
    *("libpython3.11.so.1.0", "libexpat.so.1", "libffi.so.8", "libcrypto.so.3"),
)
INPUT = b'{"cniVersion": "1.0.0"}'


def call(*command: str | Path, env: dict[str, str] | None = None, **options: Any) -> bytes:
    """Run VERSION; return what it printed."""
    done: subprocess.CompletedProcess[bytes] = subprocess.run(
        command or (PLUGIN,),
        input=INPUT,
        env={"CNI_COMMAND": "VERSION"} if env is None else env,
        capture_output=True,
        timeout=30,
        check=False,
        **options,
    )
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout


@pytest.fixture(scope="module")
def answer() -> bytes:
    """Return what VERSION prints when nothing is unusual."""
    output = call()
    assert "1.1.0" in json.loads(output)["supportedVersions"]
    return output


def test_nothing_is_opened(tmp_path: Path) -> None:
    """Everything is in the executable: no library, no module, no time zone.

    But for the count of calls, where another one has been.
    """
    trace = tmp_path / "trace"
    call("strace", "-f", "-e", "trace=open,openat,execve", "-o", trace, PLUGIN)
    opened = re.findall(r'open(?:at)?\([^"]*"([^"]*)"', trace.read_text())
    assert set(opened) <= {"/run/cni-faasm/calls/recent"}
    assert trace.read_text().count("execve(") == 1


def test_no_verb_loads_anything(runtime_host: Host, tmp_path: Path) -> None:
    host = runtime_host
    inside = host.add_container()
    trace = tmp_path / "trace"
    for name in NO_LIBRARIES:
        (tmp_path / name).write_bytes(b"not a library")
    plugin = ["strace", "-f", "-e", "trace=openat,execve", "-E", f"LD_LIBRARY_PATH={tmp_path}"]
    plugin += ["-E", f"LD_PRELOAD={tmp_path}/libc.so.6", "-o", str(trace), "-A", str(PLUGIN)]
    config = host.config(ipMasq=True, bandwidth={"ingressRate": "10M", "egressRate": "10M"})
    config["cniVersion"] = "1.1.0"
    result = host.cni("ADD", inside, config, plugin=plugin).ok()
    host.cni("STATUS", None, config, plugin=plugin).ok()
    given = {**config, "prevResult": result}
    host.cni("CHECK", inside, given, plugin=plugin).ok()
    host.cni("DEL", inside, given, plugin=plugin).ok()
    host.cni("GC", None, {**config, "cni.dev/valid-attachments": []}, plugin=plugin).ok()
    assert trace.read_text().count("execve(") == 5
    opened = re.findall(r'openat\([^"]*"([^"]+)"', trace.read_text())
    allowed = re.compile(
        rf"(?:/proc|/sys|/run|/dev|/var/lib/cni|{host.data_dir}|{host.state_dir})(?:/.*)?"
    )
    assert [path for path in opened if path.startswith("/") and not allowed.match(path)] == []


def test_bundled_libraries_win_in_the_tool(tmp_path: Path) -> None:
    for name in NO_LIBRARIES:
        (tmp_path / name).write_bytes(b"not a library")
    command = (TOOL, "validate", REPO / "conf" / "10-faasm.conflist")
    env = {"LD_LIBRARY_PATH": str(tmp_path)}
    subprocess.run(command, check=True, capture_output=True, env=env)


def test_through_a_symlink(answer: bytes, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    link = tmp_path / "bin" / "faasm"
    link.symlink_to(os.path.relpath(PLUGIN, tmp_path / "bin"))
    chain = tmp_path / "faasm"
    chain.symlink_to(link)
    assert call(link) == answer
    assert call(chain) == answer
    assert call("bin/faasm", cwd=tmp_path) == answer
    assert call("./faasm", cwd=tmp_path) == answer


def test_from_a_copied_folder(answer: bytes, tmp_path: Path) -> None:
    copy = tmp_path / "with space and ü"
    shutil.copytree(BUNDLE, copy, symlinks=True)
    assert call(copy / "faasm") == answer
    shutil.copy(PLUGIN, tmp_path / "alone")
    assert call(tmp_path / "alone") == answer
    subprocess.run([copy / "cni-faasm", "version"], check=True, capture_output=True)


def test_found_on_path(answer: bytes) -> None:
    assert call("faasm", env={"CNI_COMMAND": "VERSION", "PATH": str(BUNDLE)}) == answer


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONHOME": "/nonexistent", "PYTHONPATH": "HERE", "PYTHONSTARTUP": "HERE/os.py"},
        {"PYTHONINSPECT": "1", "PYTHONVERBOSE": "3", "PYTHONDEVMODE": "1", "PYTHONDEBUG": "1"},
        {"PYTHONIOENCODING": "utf-16", "PYTHONUTF8": "0", "PYTHONWARNINGS": "error"},
        {"PYTHONPROFILEIMPORTTIME": "1", "PYTHONTRACEMALLOC": "5", "PYTHONMALLOC": "debug"},
        {"LANG": "de_DE.ISO-8859-1", "LC_ALL": "tr_TR.ISO-8859-9"},
        {"LC_ALL": "nonsense"},
        {"LD_LIBRARY_PATH": "HERE"},
        {"LD_PRELOAD": "HERE/libc.so.6", "LD_AUDIT": "HERE/libc.so.6", "LD_BIND_NOW": "1"},
        {"LD_DEBUG": "all", "LD_SHOW_AUXV": "1", "LD_TRACE_LOADED_OBJECTS": "1"},
        {"GLIBC_TUNABLES": "glibc.malloc.check=3:glibc.malloc.perturb=85"},
        {"MALLOC_PERTURB_": "85", "MALLOC_ARENA_MAX": "1", "TZ": "Asia/Kathmandu"},
        {"PYTHONHASHSEED": "random", "PYTHONNOUSERSITE": "", "PYTHONOPTIMIZE": "0"},
        {"_PYI_ARCHIVE_FILE": "/nonexistent", "_PYI_PARENT_PROCESS_LEVEL": "1"},
        {"_PYI_ARCHIVE_FILE": "PLUGIN", "_PYI_PARENT_PROCESS_LEVEL": "9"},
        {"_PYI_ARCHIVE_FILE": "PLUGIN", "_PYI_APPLICATION_HOME_DIR": "HERE"},
        {"PYINSTALLER_RESET_ENVIRONMENT": "1"},
        {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "PATH": ""},
    ],
    ids=",".join,
)
def test_the_environment_changes_nothing(
    answer: bytes, tmp_path: Path, environment: dict[str, str]
) -> None:
    """Modules and libraries in the current folder or named by a variable are not loaded."""
    for name in ("encodings", "os", "json", "_json", "_socket", "cni_faasm", "codecs", "posix"):
        (tmp_path / f"{name}.py").write_text("import nonsense\n")
    for name in NO_LIBRARIES:
        (tmp_path / name).write_bytes(b"not a library")
    env = {
        name: value.replace("HERE", str(tmp_path)).replace("PLUGIN", str(PLUGIN.resolve()))
        for name, value in environment.items()
    }
    assert call(env={"CNI_COMMAND": "VERSION", **env}, cwd=tmp_path) == answer


def test_no_python_and_nothing_writable(answer: bytes) -> None:
    """As on a host with a read-only root: /tmp cannot be written, no Python is installed."""
    script = (
        "mount -t tmpfs -o ro none /tmp && mount -t tmpfs -o ro none /var/tmp && "
        "mount -t tmpfs none /usr/lib/python3.11 && mount --bind /dev/null /usr/bin/python3.11 && "
        '! touch /tmp/x 2>/dev/null && exec "$0"'
    )
    # PLUGIN may itself lie below /tmp.
    assert not str(PLUGIN.resolve()).startswith(("/tmp/", "/var/tmp/"))
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    assert (
        call(
            "unshare", "--mount", "sh", "-c", script, PLUGIN,
            env={"CNI_COMMAND": "VERSION", "PATH": path},
        )
        == answer
    )  # fmt: skip


def test_on_a_host_without_a_c_library(answer: bytes, tmp_path: Path) -> None:
    """Nothing is there but the bundle and /proc."""
    shutil.copytree(BUNDLE, tmp_path / "faasm", symlinks=True)
    (tmp_path / "proc").mkdir()
    script = f'mount --rbind /proc {tmp_path}/proc && exec chroot {tmp_path} "$@"'
    command = ("unshare", "--mount", "sh", "-c", script, "sh")
    path = {"PATH": SYSTEM_PATH}
    assert call(*command, "/faasm/faasm", env={"CNI_COMMAND": "VERSION", **path}) == answer
    assert call(*command, "/faasm/cni-faasm", "version", env=path).startswith(b"cni-faasm ")


def test_as_a_user_without_rights(answer: bytes, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    shutil.copytree(BUNDLE, tmp_path / "faasm", symlinks=True)
    assert call(tmp_path / "faasm" / "faasm", user=65534, group=65534, extra_groups=[]) == answer


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_with_closed_descriptors(answer: bytes, closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" {closed}', PLUGIN],
        env={"CNI_COMMAND": "VERSION"},
        stdout=subprocess.PIPE,
        check=False,
        timeout=30,
    )
    if "<&-" in closed and done.returncode:
        assert json.loads(done.stdout)["code"] in (5, 6)
    else:
        assert done.stdout == answer


def test_with_closed_stdout_it_fails() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" >&-', PLUGIN],
        env={"CNI_COMMAND": "VERSION"},
        input=INPUT,
        stderr=subprocess.PIPE,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


def test_by_hand_it_says_what_it_is() -> None:
    done = subprocess.run(
        [PLUGIN], env={}, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=30
    )
    assert done.stdout == b""
    assert b"CNI" in done.stderr
    assert b"1.1.0" in done.stderr


@pytest.mark.parametrize("contents", [None, b"", b"\x7fELF", b"not a library" * 1000])
def test_without_its_loader_the_tool_says_so(
    answer: bytes, tmp_path: Path, contents: bytes | None
) -> None:
    """That is what the kernel starts nothing without, were it the system's."""
    copy = tmp_path / "faasm"
    shutil.copytree(BUNDLE, copy, symlinks=True)
    loader = copy / "_internal" / LOADER.name
    loader.unlink()
    if contents is not None:
        loader.write_bytes(contents)
    assert call(copy / "faasm") == answer
    done = subprocess.run([copy / "cni-faasm", "version"], env={}, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert f"_internal/{LOADER.name}".encode() in done.stderr


def test_without_proc(answer: bytes) -> None:
    script = 'mount -t tmpfs none /proc && exec "$@"'
    words = ("unshare", "--mount", "sh", "-c", script, "sh")
    env = {"CNI_COMMAND": "VERSION", "PATH": SYSTEM_PATH}
    assert call(*words, PLUGIN, env=env) == answer
    done = subprocess.run(
        [*words, TOOL, "version"], env={"PATH": SYSTEM_PATH}, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"/proc" in done.stderr


def test_one_folder_of_shared_contents() -> None:
    assert sorted(path.name for path in BUNDLE.iterdir() if path.suffix not in (".md", ".json")) == [
        "LICENSE", "_internal", "cni-faasm", "conf", "docs", "faasm", "licenses", "monitoring",
    ]  # fmt: skip
    for executable in (PLUGIN, TOOL):
        assert os.access(executable, os.X_OK)


def test_the_tool_knows_its_plugin() -> None:
    done = subprocess.run(
        [TOOL, "version", "--json"], env={}, capture_output=True, check=True, timeout=60
    )
    document = json.loads(done.stdout)
    assert document["bundle"] is True
    supported = json.loads(call())["supportedVersions"]
    assert document["cniVersions"] == supported
    source = (REPO / "cni_faasm" / "__init__.py").read_text()
    assert f'"{document["version"]}"' in source


def test_what_is_no_utf8_is_said_to_be_none() -> None:
    """The interpreter wants the package of codecs before it raises that error."""
    done = subprocess.run(
        [PLUGIN],
        input=b'{"cniVersion": "1.0.0", "name": "\xff\xfe"}',
        env={"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "a", "CNI_NETNS": "/x", "CNI_IFNAME": "e",
             "CNI_PATH": "/"},
        capture_output=True,
        check=False,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["code"]) == (1, 6)
    assert "UTF-8" in answer["msg"]

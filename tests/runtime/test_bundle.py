"""Test what only the built executable can get wrong: what it loads, and from where."""

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
C_LIBRARY = [LOADER.name.partition(".")[0], "libc", "libm"]
NO_LIBRARIES = (
    *(LOADER.name, "libc.so.6", "libm.so.6", "libz.so.1"),
    *("libpython3.11.so.1.0", "libexpat.so.1", "libffi.so.8", "libcrypto.so.3"),
)
INPUT = b'{"cniVersion": "1.0.0"}'

# What the interpreter has imported when it has started, and the C modules that DESIGN.md
# allows on the lean path. Everything else must be ours.
INTERPRETER = {
    "__main__", "_abc", "_codecs", "_frozen_importlib", "_frozen_importlib_external", "_imp",
    "_io", "_signal", "_thread", "_warnings", "_weakref", "abc", "builtins", "codecs",
    "encodings", "io", "marshal", "posix", "sys", "time", "zipimport",
}  # fmt: skip
LEAN = {"_json", "_socket", "_struct", "binascii", "errno", "fcntl", "gc"}


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


@pytest.fixture(scope="module")
def preload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("preload") / "modules_at_exit.so"
    source = Path(__file__).with_name("modules_at_exit.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-o", library, source], check=True)
    return library


def test_every_verb_imports_only_what_is_allowed(
    runtime_host: Host, preload: Path, tmp_path: Path
) -> None:
    host = runtime_host
    inside = host.add_container()
    config = host.config(ipMasq=True, bandwidth={"ingressRate": "10M", "egressRate": "10M"})
    config["cniVersion"] = "1.1.0"
    listing = tmp_path / "modules"
    env = {"LD_PRELOAD": str(preload), "MODULES_AT_EXIT": str(listing)}
    prev: Any = None
    seen = {}
    for verb in ("VERSION", "STATUS", "ADD", "CHECK", "DEL", "GC"):
        listing.unlink(missing_ok=True)
        document = dict(config)
        if verb in ("CHECK", "DEL"):
            document["prevResult"] = prev
        if verb == "GC":
            document["cni.dev/valid-attachments"] = []
        where = inside if verb in ("ADD", "CHECK", "DEL") else None
        result = host.cni(verb, where, document, env=env).ok()
        if verb == "ADD":
            prev = result
        modules = set(listing.read_text().split())
        ours = {name for name in modules if name.split(".")[0] == "cni_faasm"}
        assert modules - ours <= INTERPRETER | LEAN, verb
        assert not any(name.startswith("cni_faasm.cli") for name in ours), verb
        seen[verb] = ours
    assert "cni_faasm.verbs.add" in seen["ADD"]
    assert len(seen["VERSION"]) < len(seen["ADD"]), "VERSION loads what only ADD needs"
    assert not any(name.startswith("cni_faasm.netlink") for name in seen["VERSION"])


def test_what_is_not_in_the_plugin_cannot_be_imported(tmp_path: Path, preload: Path) -> None:
    """The tool's libraries lie in the same folder, but the plugin does not see them."""
    probe = tmp_path / "probe.c"
    probe.write_text(
        preload_source().replace(
            "import sys, posix\\n",
            "import sys, posix\\n"
            "for _n in ('pyroute2', 'typer', 'json', 'socket', 'ssl', '_ssl', 'encodings.ascii'):\\n"
            "    try:\\n"
            "        __import__(_n)\\n"
            "    except ImportError:\\n"
            "        pass\\n",
        )
    )
    library = tmp_path / "probe.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, probe], check=True)
    listing = tmp_path / "modules"
    call(env={
        "CNI_COMMAND": "VERSION", "LD_PRELOAD": str(library), "MODULES_AT_EXIT": str(listing),
    })  # fmt: skip
    names = set(listing.read_text().split())
    assert "cni_faasm.spec.protocol" in names
    assert not names & {"pyroute2", "typer", "json", "socket", "ssl", "_ssl", "encodings.ascii"}


def preload_source() -> str:
    return Path(__file__).with_name("modules_at_exit.c").read_text()


def test_only_the_bundle_is_opened(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    call("strace", "-f", "-e", "trace=open,openat,execve", "-o", trace, PLUGIN)
    opened = {
        match[1]
        for match in re.finditer(r'open(?:at)?\([^"]*"([^"]+)".*\) = \d', trace.read_text())
    }
    bundle = str(PLUGIN.resolve().parent)
    elsewhere = {path for path in opened if not path.startswith(f"{bundle}/")}
    names = sorted(os.path.basename(path).partition(".")[0] for path in opened - elsewhere)
    # No library of Python, no archive of modules; the C library is the bundle's.
    assert names == ["_json", "faasm", *C_LIBRARY]
    allowed = re.compile(r"/etc/ld\.so\.preload|/etc/localtime|/usr/share/zoneinfo/.*")
    assert [path for path in sorted(elsewhere) if not allowed.fullmatch(path)] == []
    # The bootloader does not execute itself again.
    assert trace.read_text().count("execve(") == 1


def test_bundled_libraries_win(runtime_host: Host, tmp_path: Path) -> None:
    """C modules and the C library come from the bundle, whatever a variable says."""
    host = runtime_host
    inside = host.add_container()
    trace = tmp_path / "trace"
    for name in NO_LIBRARIES:
        (tmp_path / name).write_bytes(b"not a library")
    plugin = ["strace", "-f", "-e", "trace=openat", "-E", f"LD_LIBRARY_PATH={tmp_path}"]
    plugin += ["-o", str(trace), str(PLUGIN)]
    config = host.config()
    host.add(inside, config, plugin=plugin)
    opened = set(re.findall(r'openat\([^"]*"([^"]+\.so[^"]*)".*\) = \d', trace.read_text()))
    inner = str(PLUGIN.resolve().parent / "_internal")
    assert [path for path in opened if not path.startswith(f"{inner}/")] == []
    names = sorted(os.path.basename(path).partition(".")[0] for path in opened)
    assert names == ["_json", *C_LIBRARY]
    host.delete_attachment(inside, config)


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
        {"LD_LIBRARY_PATH_ORIG": "HERE"},
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


def test_a_broken_bundle_answers_in_json(tmp_path: Path) -> None:
    copy = tmp_path / "faasm"
    shutil.copytree(BUNDLE, copy, symlinks=True)
    for extension in copy.glob("_internal/python3*/lib-dynload/_json.*"):
        extension.unlink()
    done = subprocess.run(
        [copy / "faasm"],
        env={"CNI_COMMAND": "VERSION"},
        input=INPUT,
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    fault = json.loads(done.stdout)
    assert fault["code"] == 100
    assert "cannot start" in fault["msg"]
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("contents", [None, b"", b"\x7fELF", b"not a library" * 1000])
def test_without_its_loader_it_says_so(tmp_path: Path, contents: bytes | None) -> None:
    """That is what the kernel starts nothing without, were it the system's."""
    copy = tmp_path / "faasm"
    shutil.copytree(BUNDLE, copy, symlinks=True)
    loader = copy / "_internal" / LOADER.name
    loader.unlink()
    if contents is not None:
        loader.write_bytes(contents)
    done = subprocess.run(
        [copy / "faasm"],
        env={"CNI_COMMAND": "VERSION"},
        input=INPUT,
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (1, b"")
    fault = json.loads(done.stdout)
    assert fault["code"] == 100
    assert f"_internal/{LOADER.name}" in fault["msg"]
    done = subprocess.run([copy / "cni-faasm", "version"], env={}, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert f"_internal/{LOADER.name}".encode() in done.stderr


def test_without_proc_it_says_so(tmp_path: Path) -> None:
    script = 'mount -t tmpfs none /proc && exec "$0"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, PLUGIN],
        env={"CNI_COMMAND": "VERSION", "PATH": SYSTEM_PATH},
        input=INPUT,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, b"")
    assert "/proc" in json.loads(done.stdout)["details"]


def test_a_call_is_not_disturbed_by_variables_of_the_bootloader(tmp_path: Path) -> None:
    """What the plugin would execute must not get our library path."""
    probe = tmp_path / "probe.c"
    probe.write_text(
        preload_source()
        .replace("' '.join(sorted(sys.modules))", "repr(sorted(posix.environ))")
        .replace("if (run", 'if (run && system("env >> $MODULES_AT_EXIT.env"))\n\t;\n    if (run')
    )
    library = tmp_path / "probe.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, probe], check=True)
    listing = tmp_path / "variables"
    base = {
        "CNI_COMMAND": "VERSION", "LD_PRELOAD": str(library), "MODULES_AT_EXIT": str(listing),
        "PATH": "/usr/bin:/bin",
    }  # fmt: skip
    call(env=base)
    assert "LD_LIBRARY_PATH" not in listing.read_text()
    assert "_PYI" not in listing.read_text()
    variables = (tmp_path / "variables.env").read_text()
    assert "MODULES_AT_EXIT" in variables
    assert "LD_LIBRARY_PATH" not in variables
    assert "_PYI" not in variables

    (tmp_path / "variables.env").unlink()
    call(env={**base, "LD_LIBRARY_PATH": "/somewhere/else"})
    variables = (tmp_path / "variables.env").read_text()
    assert "LD_LIBRARY_PATH=/somewhere/else\n" in variables
    assert "LD_LIBRARY_PATH_ORIG" not in variables


def test_one_folder_of_shared_contents() -> None:
    assert sorted(path.name for path in BUNDLE.iterdir() if path.suffix not in (".md", ".json")) == [
        "LICENSE", "_internal", "cni-faasm", "conf", "docs", "faasm",
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

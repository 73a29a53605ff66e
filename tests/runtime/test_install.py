"""Test building and installing: what is put where, what is left alone, the same bytes twice."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import cyclonedx.schema
import jsonschema
import pytest
from referencing import Registry, Resource

from cni_faasm import __version__
from cni_faasm.cli.install.command import SYSTEM_FILES
from tests import links
from tests.host import BUNDLE, REPO

FOLDER = "usr/lib/cni-faasm"
PLUGIN = "opt/cni/bin/faasm"
TOOL = "usr/bin/cni-faasm"
CONFIG = "etc/cni/net.d/10-faasm.conflist"
FORMER_UNIT = "usr/lib/systemd/system/cni-faasm.service"
RULES = "usr/lib/udev/rules.d/85-cni-faasm.rules"
NETWORK = "usr/lib/systemd/network/00-cni-faasm.network"

BUILD_REQUIREMENTS = REPO / "requirements/build.txt"
DOCUMENTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE")


def run(
    *command: str | Path, check: bool = True, **options: Any
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        command, text=True, capture_output=True, check=False, timeout=300, **options
    )
    assert not check or done.returncode == 0, done
    assert "Traceback" not in done.stderr
    return done


def steps(*command: str | Path) -> dict[str, str]:
    """Run install or uninstall; return what happened to which path."""
    document = json.loads(run(*command, "--json").stdout)
    return {step["path"]: step["action"] for step in document["steps"]}


def tree(folder: Path) -> dict[str, str]:
    """Return every path below a folder, with a hash of its contents."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    destdir = tmp_path / "root"
    assert set(steps(BUNDLE / "cni-faasm", "install", "--destdir", destdir).values()) == {
        "installed"
    }
    return destdir


def version_of(plugin: Path) -> str:
    done = run(plugin, input='{"cniVersion": "1.0.0"}', env={"CNI_COMMAND": "VERSION"})
    return str(json.loads(done.stdout)["cniVersion"])


def test_everything_is_in_its_place(installed: Path) -> None:
    assert version_of(installed / PLUGIN) == "1.1.0"
    assert run(installed / TOOL, "version", env={}).stdout.startswith("cni-faasm ")
    assert (installed / PLUGIN).resolve() == installed / FOLDER / "faasm"
    assert (installed / CONFIG).read_bytes() == (REPO / "conf/10-faasm.conflist").read_bytes()
    assert {str(path.relative_to(installed)) for path in installed.glob("*/*/*")} == {
        FOLDER, TOOL, "opt/cni/bin", "etc/cni/net.d", "usr/lib/systemd", "usr/lib/udev",
        *(f"usr/share/{name}" for name in ("bash-completion", "fish", "man", "zsh")),
    }  # fmt: skip
    shipped = (REPO / "deploy/systemd").iterdir()
    units = sorted(each for each in shipped if each.suffix in {".service", ".timer"})
    assert [each.name for each in units] == sorted(
        each.name for each in (installed / FORMER_UNIT).parent.iterdir()
    )
    for name in (*(f"usr/lib/systemd/system/{each.name}" for each in units), RULES, NETWORK):
        delivered = REPO / "deploy/systemd" / Path(name).name
        assert (installed / name).read_bytes() == delivered.read_bytes()
    assert not (installed / FORMER_UNIT).exists()
    bundle = {
        name: value for name, value in tree(installed / FOLDER).items() if name != "installed.json"
    }
    assert bundle == tree(BUNDLE)
    for path in (installed / FOLDER).rglob("*"):
        assert path.stat().st_mode & 0o022 == 0, path
        assert path.stat().st_mode & 0o044 == 0o044, path


def test_a_moved_tree_still_works(installed: Path, tmp_path: Path) -> None:
    """As a package's contents do when they are unpacked on another machine."""
    moved = tmp_path / "elsewhere"
    installed.rename(moved)
    assert version_of(moved / PLUGIN) == "1.1.0"
    run(moved / TOOL, "version")


def test_uninstall_takes_away_just_that(installed: Path) -> None:
    leases = installed / "var/lib/cni/networks/faasm"
    leases.mkdir(parents=True)
    (leases / "10.200.0.2").write_text("c1\r\neth0")
    done = steps(installed / TOOL, "uninstall", "--destdir", installed)
    assert set(done.values()) == {"removed"}
    assert tree(installed) == {
        "var": "folder",
        "var/lib": "folder",
        "var/lib/cni": "folder",
        "var/lib/cni/networks": "folder",
        "var/lib/cni/networks/faasm": "folder",
        "var/lib/cni/networks/faasm/10.200.0.2": hashlib.sha256(b"c1\r\neth0").hexdigest(),
    }
    assert run(BUNDLE / "cni-faasm", "uninstall", "--destdir", installed).stdout == (
        "nothing was installed\n"
    )


def test_folders_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "opt/cni/bin").mkdir(parents=True)
    (tmp_path / "opt/cni/bin/bridge").write_text("theirs")
    (tmp_path / "etc/cni/net.d").mkdir(parents=True)
    before = tree(tmp_path)
    run(BUNDLE / "cni-faasm", "install", "--destdir", tmp_path)
    run(BUNDLE / "cni-faasm", "uninstall", "--destdir", tmp_path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("folder", ["usr/lib/cni", "usr/libexec/cni"])
def test_where_the_distribution_has_its_plugins(tmp_path: Path, folder: str) -> None:
    """Debian's containerd looks for plugins in /usr/lib/cni and nowhere else."""
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "bridge").write_text("theirs")
    before = tree(tmp_path)
    link = tmp_path / folder / "faasm"
    assert steps(BUNDLE / "cni-faasm", "install", "--destdir", tmp_path)[str(link)] == "installed"
    assert link.resolve() == tmp_path / FOLDER / "faasm"
    assert version_of(link) == "1.1.0"
    assert steps(tmp_path / TOOL, "uninstall", "--destdir", tmp_path)[str(link)] == "removed"
    assert tree(tmp_path) == before
    link.write_text("theirs")
    done = run(BUNDLE / "cni-faasm", "install", "--destdir", tmp_path, check=False)
    assert (done.returncode, str(link) in done.stderr) == (1, True)


@pytest.mark.parametrize(
    "netavark", ["usr/lib/podman/netavark", "usr/bin/netavark", "usr/libexec/netavark/other"]
)
def test_where_podman_5_looks(tmp_path: Path, netavark: str) -> None:
    """A folder that no package brings is made, and taken away again."""
    (tmp_path / netavark).parent.mkdir(parents=True)
    (tmp_path / netavark).write_text("theirs")
    before = tree(tmp_path)
    link = tmp_path / "usr/libexec/netavark/faasm"
    for _ in range(2):
        done = steps(BUNDLE / "cni-faasm", "install", "--destdir", tmp_path)
        assert done[str(link)] == "installed"
    told = json.loads(run(link, "info").stdout)
    assert (told["api_version"], told["version"]) == ("1.0.0", __version__)
    assert steps(tmp_path / TOOL, "uninstall", "--destdir", tmp_path)[str(link)] == "removed"
    assert tree(tmp_path) == before


def test_a_folder_that_is_a_link_is_let_be(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/cni").symlink_to("/nowhere/else")
    (tmp_path / "usr/libexec").mkdir()
    (tmp_path / "usr/libexec/cni").symlink_to("../../opt/cni/bin")
    done = steps(BUNDLE / "cni-faasm", "install", "--destdir", tmp_path)
    assert [path for path in done if path.endswith("cni/faasm")] == []


@pytest.mark.parametrize("words", ["install", "uninstall"])
def test_what_dpkg_installed_is_left_to_it(installed: Path, words: str) -> None:
    listed = installed / "var/lib/dpkg/info/cni-faasm.list"
    listed.parent.mkdir(parents=True)
    listed.touch()
    before = tree(installed)
    done = run(BUNDLE / "cni-faasm", words, "--destdir", installed, check=False)
    assert (done.returncode, "apt remove cni-faasm" in done.stderr) == (1, True)
    assert tree(installed) == before


def test_the_units_are_right(installed: Path) -> None:
    """By systemd itself, in a tree that has the programs, and the targets of the machine."""
    folder = (installed / FORMER_UNIT).parent
    units = sorted(each.name for each in folder.iterdir())
    assert len(units) == 5  # gc and metrics with their timers, slots
    for pattern in ("*.target", "*.slice"):
        for each in Path("/usr/lib/systemd/system").glob(pattern):
            shutil.copy(each, folder)
    verify = ("systemd-analyze", "verify", "--man=no", f"--root={installed}")
    assert run(*verify, *units).stderr == ""
    (installed / TOOL).unlink()
    assert TOOL in run(*verify, *units, check=False).stderr


def test_a_changed_configuration_stays(installed: Path) -> None:
    config = installed / CONFIG
    config.write_text(config.read_text().replace("10.200.0.0/16", "10.99.0.0/16"))
    mine = config.read_bytes()
    tool = BUNDLE / "cni-faasm"
    again = run(tool, "install", "--destdir", installed)
    assert f"kept      {config} (yours" in again.stdout
    assert config.read_bytes() == mine
    gone = run(tool, "uninstall", "--destdir", installed)
    assert f"kept      {config} (changed" in gone.stdout
    assert tree(installed).keys() == {"etc", "etc/cni", "etc/cni/net.d", CONFIG}


def test_an_update_replaces_an_unchanged_configuration(installed: Path) -> None:
    config = installed / CONFIG
    delivered = installed / FOLDER / "_internal/conf/10-faasm.conflist"
    older = delivered.read_text().replace("10.200.0.0/16", "10.201.0.0/16")
    delivered.write_text(older)
    config.write_text(older)
    (installed / FOLDER / "of an older version").write_text("")
    assert steps(BUNDLE / "cni-faasm", "install", "--destdir", installed)[str(config)] == (
        "installed"
    )
    assert config.read_bytes() == (REPO / "conf/10-faasm.conflist").read_bytes()
    assert not (installed / FOLDER / "of an older version").exists()
    assert {path.name for path in (installed / "usr/lib").iterdir()} == {
        "cni-faasm", "systemd", "udev",
    }  # fmt: skip


def test_installing_from_the_installed_folder(installed: Path) -> None:
    (installed / PLUGIN).unlink()
    before = tree(installed / FOLDER)
    steps(installed / TOOL, "install", "--destdir", installed)
    assert tree(installed / FOLDER) == before
    assert version_of(installed / PLUGIN) == "1.1.0"


@pytest.mark.parametrize("taken", [PLUGIN, TOOL])
def test_somebody_elses_file_is_not_overwritten(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).parent.mkdir(parents=True)
    (tmp_path / taken).write_text("theirs")
    before = tree(tmp_path)
    done = run(BUNDLE / "cni-faasm", "install", "--destdir", tmp_path, check=False)
    assert done.returncode == 1
    assert taken in done.stderr
    assert tree(tmp_path) == before


def test_calls_go_on_during_updates(installed: Path) -> None:
    """Some are being started at the moment when the old folder becomes the new one."""
    plugin = installed / PLUGIN
    for _ in range(3):
        with subprocess.Popen(
            [BUNDLE / "cni-faasm", "install", "--destdir", installed], stdout=subprocess.DEVNULL
        ) as update:
            calls = 0
            while update.poll() is None:
                assert version_of(plugin) == "1.1.0"
                calls += 1
            assert update.returncode == 0
        assert calls > 1


def test_the_service_of_an_earlier_version_goes(installed: Path) -> None:
    """Version 0.1.0 had one that did calls for others."""
    unit = installed / FORMER_UNIT
    for words in ("install", "uninstall"):
        unit.parent.mkdir(parents=True, exist_ok=True)
        unit.write_text("[Service]\nExecStart=/usr/lib/cni-faasm/faasm --agent\n")
        done = steps(BUNDLE / "cni-faasm", words, "--destdir", installed)
        assert done[str(unit)] == "removed"
        assert not unit.exists()


def test_the_command_line() -> None:
    tool = BUNDLE / "cni-faasm"
    assert run(tool, "instal", check=False).returncode == 2  # codespell:ignore instal
    assert run(tool, "install", "--nonsense", check=False).returncode == 2
    assert "Examples" in run(tool, "install", "--help").stdout
    assert "Examples" in run(tool, "uninstall", "--help").stdout
    source = run(REPO / ".venv/bin/python", "-m", "cni_faasm.cli", "install", cwd=REPO, check=False)
    assert (source.returncode, "build.sh" in source.stderr) == (1, True)


def test_without_rights_it_says_so(tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(0o755)
    shutil.copytree(BUNDLE, tmp_path / "faasm", symlinks=True)
    done = run(
        tmp_path / "faasm" / "cni-faasm",
        "install",
        check=False,
        user=65534,
        group=65534,
        extra_groups=[],
    )
    assert done.returncode == 1
    assert "root" in done.stderr


def test_over_what_is_in_a_lower_layer(installed: Path, tmp_path: Path) -> None:
    """In an overlay (an image, a live system) a folder of a lower layer cannot be renamed."""
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    script = (
        'mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$2/merged"; '
        '"$3" install --destdir "$2/merged"; CNI_COMMAND=VERSION "$2/merged/opt/cni/bin/faasm"; '
        '"$3" uninstall --destdir "$2/merged"; find "$2/merged" -name "*faasm*"'
    )
    paths = (installed, tmp_path, BUNDLE / "cni-faasm")
    command = ["unshare", "--mount", "sh", "-ec", script, "sh", *map(str, paths)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert '"1.1.0"' in done.stdout
    assert done.stdout.splitlines()[-1].startswith("removed")


def test_build_sh_installs_and_uninstalls(tmp_path: Path) -> None:
    destdir = tmp_path / "with space"
    run("./build.sh", "--install", "--destdir", destdir, cwd=REPO)
    assert version_of(destdir / PLUGIN) == "1.1.0"
    run("./build.sh", "--uninstall", f"--destdir={destdir}", cwd=REPO)
    assert list(tmp_path.rglob("*")) == [destdir]
    assert run("./build.sh", "--nonsense", cwd=REPO, check=False).returncode == 2


def test_installing_in_a_private_host_leaves_the_machine_alone() -> None:
    """For who tries it out: no --destdir, and nothing to clean up."""
    script = (
        f"./build.sh --install && echo {{}} | CNI_COMMAND=VERSION /{PLUGIN} && cni-faasm version"
    )
    # Not a nested one, which would share folders with that of the tests.
    machine = 'mount -t tmpfs tmpfs /run && exec bin/private_host.sh sh -ec "$1"'
    done = run("unshare", "--mount", "sh", "-ec", machine, "sh", script, cwd=REPO)
    assert '"1.1.0"' in done.stdout
    assert f"installed /{FOLDER} (version" in done.stdout
    assert [
        path
        for path in (FOLDER, PLUGIN, TOOL, CONFIG, *SYSTEM_FILES)
        if os.path.lexists(f"/{path}")
    ] == []


def test_nothing_changed_is_quick() -> None:
    run("./build.sh", cwd=REPO)
    took = []
    for _ in range(3):  # a busy machine is not busy each time
        start = time.monotonic()
        done = run("./build.sh", cwd=REPO)
        took.append(time.monotonic() - start)
        assert "up to date" in done.stderr
    assert min(took) < 1


def test_the_archive(tmp_path: Path) -> None:
    archive = next((REPO / "dist").glob("cni-faasm-*.tar.gz"))
    run("sha256sum", "--check", f"{archive.name}.sha256", cwd=archive.parent)
    with tarfile.open(archive) as tar:
        assert {(member.uid, member.gid) for member in tar} == {(0, 0)}
        assert len({member.mtime for member in tar}) == 1
    run("tar", "-C", tmp_path, "-xf", archive)
    (top,) = tmp_path.iterdir()
    assert archive.name.startswith(f"{top.name}-")
    assert tree(top) == tree(BUNDLE)
    assert version_of(top / "faasm") == "1.1.0"
    for name in DOCUMENTS:
        assert (top / name).read_bytes() == (REPO / name).read_bytes()
    pages = [*top.glob("*.md"), *top.glob("docs/*.md")]
    assert len(pages) == len(DOCUMENTS) - 1 + len(list(REPO.glob("docs/*.md")))
    for page in pages:
        for target in links.targets(page):
            assert target.exists(), f"{page}: {target}"


def test_all_that_is_handed_on_has_its_sum() -> None:
    dist = REPO / "dist"
    run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=dist)
    listed = {line.split()[1] for line in (dist / "SHA256SUMS").read_text().splitlines()}
    made = {each.name for each in dist.iterdir()} - {"faasm", "SHA256SUMS"}
    assert listed == {name for name in made if not name.endswith(".sha256")}
    assert {Path(name).suffix for name in listed} == {".gz", ".json", ".deb"}


def test_the_bill_of_materials() -> None:
    """It is what CycloneDX's schema says, and names what is known to be in the bundle."""
    [path] = (REPO / "dist").glob("*.cdx.json")
    bill = json.loads(path.read_text())
    folder = Path(cyclonedx.schema.__file__).parent / "_res"
    known = Registry[Any]().with_resources(
        (
            f"http://cyclonedx.org/schema/{name}.SNAPSHOT.schema.json",
            Resource.from_contents(
                json.loads((folder / f"{name}.SNAPSHOT.schema.json").read_text())
            ),
        )
        for name in ("spdx", "jsf-0.82", "bom-1.6")
    )
    schema = known.contents("http://cyclonedx.org/schema/bom-1.6.SNAPSHOT.schema.json")
    validator = jsonschema.Draft7Validator(schema, registry=known)
    assert [error.message for error in validator.iter_errors(bill)] == []
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)", BUILD_REQUIREMENTS.read_text(), re.MULTILINE))
    found = {one["name"]: one for one in bill["components"]}
    assert {"pyroute2", "rich", "pyinstaller", "libc6", "libssl3", "zlib1g-dev"} <= set(found)
    for name, one in found.items():
        kind = one["purl"].partition("/")[0]
        assert kind in {"pkg:pypi", "pkg:deb"}
        assert kind == "pkg:deb" or one["version"] == pinned[name]
        assert (BUNDLE / "licenses" / f"{name}.txt").stat().st_size > 500
    assert bill["metadata"]["component"]["version"] == __version__


def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    """The second from a copy elsewhere, at another time, under other settings."""
    archive = next((REPO / "dist").glob("cni-faasm-*.tar.gz"))
    copy = tmp_path / "sources"
    copy.mkdir()
    for name in (
        "build.sh",
        "cni_faasm",
        "packaging",
        "conf",
        "deploy",
        "docs",
        "requirements",
        "pyproject.toml",
        *DOCUMENTS,
    ):
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPO / name, copy / name)
    (copy / ".venv").symlink_to(REPO / ".venv")
    env = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LANG": "C", "HOME": "/"}
    run("sh", "-c", "umask 077; exec ./build.sh", cwd=copy, env=env)
    again = copy / "dist" / archive.name
    assert again.with_suffix(".gz.sha256").read_bytes() == (
        archive.with_suffix(".gz.sha256").read_bytes()
    )


def test_pip_installs_both_commands(tmp_path: Path) -> None:
    """From a wheel, as `pip install .` makes it."""
    sources = tmp_path / "sources"
    sources.mkdir()
    shutil.copytree(
        REPO / "cni_faasm",
        sources / "cni_faasm",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copy(REPO / "pyproject.toml", sources)
    for name in ("README.md", "LICENSE"):
        shutil.copy(REPO / name, sources)
    python = REPO / ".venv/bin/python"
    site = tmp_path / "site"
    run(
        python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
        "--target", site, sources,
    )  # fmt: skip
    env = {"PYTHONPATH": str(site), "CNI_COMMAND": "VERSION"}
    done = run(python, site / "bin" / "faasm", input='{"cniVersion": "1.0.0"}', env=env)
    assert "1.1.0" in done.stdout
    assert run(python, site / "bin" / "cni-faasm", "version", env=env).stdout.startswith(
        "cni-faasm "
    )
    assert (site / "cni_faasm" / "py.typed").exists()

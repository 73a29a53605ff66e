"""Arguments of both programs: what people ask, and what nobody knows."""

import json
import subprocess

import pytest

from cni_faasm import __version__
from cni_faasm.spec.protocol import SUPPORTED_VERSIONS
from tests.host import BUNDLE, REPO, SYSTEM_PATH, built_plugin, source_plugin
from tests.tool import SOURCE_TOOL

PLUGINS = [pytest.param(source_plugin(), id="source"), pytest.param(built_plugin(), id="built")]
TOOLS = [
    pytest.param(SOURCE_TOOL, id="source"),
    pytest.param([str(BUNDLE / "cni-faasm")], id="built"),
]


def run(command: list[str], *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*command, *words],
        check=False,
        capture_output=True,
        text=True,
        input="{}",
        env={"PATH": SYSTEM_PATH, "PYTHONPATH": str(REPO), **environment},
    )


@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_plugin_tells_its_version_and_its_help(plugin: list[str]) -> None:
    done = run(plugin, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == f"faasm {__version__}"
    assert ", ".join(SUPPORTED_VERSIONS) in done.stdout
    for word in ("--help", "-h"):
        done = run(plugin, word)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Usage: faasm ")
    done = run(plugin)
    assert (done.returncode, done.stdout) == (0, "")
    assert "cni-faasm --help" in done.stderr


@pytest.mark.parametrize("plugin", PLUGINS)
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--Version"], "unknown argument '--Version': did you mean --version?"),
        (["--agent"], "unknown argument '--agent'\n"),
        (["--versoin"], "unknown argument '--versoin': did you mean --version?"),
        (["--version", "--nonsense"], "unknown argument '--nonsense'\n"),
        (["ADD"], "unknown argument 'ADD'\n"),
        (["setpu", "/run/netns/a"], "unknown argument 'setpu': did you mean setup?"),
        ([""], "unknown argument ''\n"),
        (["\x1b[31m\udcff"], "unknown argument '?[31m?'\n"),
        (["x" * 10_000], f"unknown argument '{'x' * 40}'\n"),
    ],
)
def test_the_plugin_refuses_what_it_does_not_know(
    plugin: list[str], words: list[str], told: str
) -> None:
    done = run(plugin, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"faasm: {told}")
    assert len(done.stderr) < 250


@pytest.mark.parametrize("plugin", PLUGINS)
def test_what_netavark_calls(plugin: list[str]) -> None:
    done = run(plugin, "info")
    assert json.loads(done.stdout) == {"version": __version__, "api_version": "1.0.0"}
    for words in (["setup"], ["teardown", "a", "b"], ["create", "a"], ["info", "a"]):
        done = run(plugin, *words)
        assert (done.returncode, done.stderr) == (1, "")
        assert "netavark calls: create, setup NETNS, " in json.loads(done.stdout)["error"]


@pytest.mark.parametrize("plugin", PLUGINS)
def test_to_a_runtime_arguments_mean_nothing(plugin: list[str]) -> None:
    """The specification has none."""
    done = run(plugin, "--version", "--nonsense", CNI_COMMAND="VERSION")
    assert (done.returncode, done.stderr) == (0, "")
    assert run(plugin, "info", CNI_COMMAND="VERSION").stdout == done.stdout
    assert json.loads(done.stdout)["supportedVersions"] == list(SUPPORTED_VERSIONS)


@pytest.mark.parametrize("tool", TOOLS)
def test_the_tool_tells_its_version(tool: list[str]) -> None:
    for words in (["--version"], ["--version", "status"]):
        done = run(tool, *words)
        assert (done.returncode, done.stdout) == (0, f"cni-faasm {__version__}\n")
    assert "--version" in run(tool, "--help").stdout
    assert run(tool, "version").stdout.startswith(f"cni-faasm {__version__}\nCNI versions: ")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["statsu"], "'status'"),
        (["pool", "dwon"], "'down'"),
        (["status", "--wacth"], "--watch"),
    ],
)
def test_the_tool_says_what_was_meant(words: list[str], meant: str) -> None:
    done = run(SOURCE_TOOL, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert meant in done.stderr

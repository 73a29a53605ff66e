"""What a trial of STATUS holds for: one configuration, its surroundings, the modules loaded."""

import json
from pathlib import Path
from typing import Any

import pytest

from cni_faasm.attachment import rehearsed
from cni_faasm.config import loading as configuration
from cni_faasm.config.loading import NetworkConfig

MODULES = """\
sch_htb 36864 4 - Live 0x0000000000000000
veth 40960 0 - Live 0x0000000000000000
nf_tables 376832 12 nft_fib,nft_ct, Live 0x0000000000000000
nft_fib 16384 0 - Loading 0x0000000000000000
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "modules"
    path.write_text(MODULES, encoding="utf-8")
    monkeypatch.setattr(rehearsed, "_MODULES", str(path))
    return path


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    return {
        "cniVersion": "1.1.0",
        "name": "n",
        "type": "faasm",
        "stateDir": str(tmp_path / "state"),
        "ipam": {"type": "host-local", "subnet": "10.200.0.0/16"},
    }


@pytest.fixture
def config(document: dict[str, Any]) -> NetworkConfig:
    return configuration.load(document, verb="STATUS")


def test_modules_that_come_do_no_harm_and_any_that_goes_has_it_tried_anew(
    config: NetworkConfig, document: dict[str, Any], modules: Path
) -> None:
    assert not rehearsed.holds(config, document)
    rehearsed.note(config, document)
    assert rehearsed.holds(config, document)
    modules.write_text(MODULES.replace("Loading", "Live") + "x 1 0 - Live 0x0\n", encoding="utf-8")
    assert rehearsed.holds(config, document)
    modules.write_text(MODULES.replace("- Live", "- Unloading", 1), encoding="utf-8")
    assert not rehearsed.holds(config, document)
    modules.write_text(MODULES.partition("\n")[2], encoding="utf-8")
    assert not rehearsed.holds(config, document)
    modules.unlink()
    modules.mkdir()  # what cannot be read tells nothing
    assert not rehearsed.holds(config, document)


def test_where_everything_is_built_in(
    config: NetworkConfig, document: dict[str, Any], modules: Path
) -> None:
    modules.unlink()
    rehearsed.note(config, document)
    assert rehearsed.holds(config, document)


@pytest.mark.parametrize("key", ["bootID", "version", "executable", "capabilities", "config"])
def test_other_surroundings(
    config: NetworkConfig, document: dict[str, Any], modules: Path, key: str
) -> None:
    assert modules.exists()
    rehearsed.note(config, document)
    path = Path(config.state_dir) / "n" / "rehearsed"
    kept = json.loads(path.read_bytes())
    path.write_text(json.dumps({**kept, key: "another"}), encoding="utf-8")
    assert not rehearsed.holds(config, document)
    del kept[key]
    path.write_text(json.dumps(kept), encoding="utf-8")
    assert not rehearsed.holds(config, document)


def test_what_cannot_be_told_is_never_kept(
    config: NetworkConfig,
    document: dict[str, Any],
    modules: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert modules.exists()
    monkeypatch.setattr(rehearsed, "_SELF", "/nowhere")
    rehearsed.note(config, document)
    assert not (Path(config.state_dir) / "n").exists()


def test_it_is_forgotten(config: NetworkConfig, document: dict[str, Any], modules: Path) -> None:
    assert modules.exists()
    rehearsed.forget(config)
    rehearsed.note(config, document)
    rehearsed.forget(config)
    assert not rehearsed.holds(config, document)
    assert list((Path(config.state_dir) / "n").iterdir()) == []

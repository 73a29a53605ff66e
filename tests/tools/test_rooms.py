"""The rooms of the package: arrows point down, and nothing imports itself by a detour."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PACKAGE = "cni_faasm"
# From the ground up; docs/design.md says what lives in each. The root is the edge of the process.
ROOMS: tuple[str, ...] = ("spec", "netlink", "config", "limits", "attachment", "ipam", "link")
ROOMS += ("rules", "verbs", "netavark")
EDGE = "the edge"
ORDER = (*ROOMS, EDGE, "cli")
MOST_LINES = 400


def modules() -> dict[str, Path]:
    found = {}
    for path in (REPO / PACKAGE).rglob("*.py"):
        parts = path.relative_to(REPO).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Return which of our modules a file imports, inside functions and for types, too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            base = node.module or ""
            for alias in node.names:
                name = f"{base}.{alias.name}"
                found.add(name if name in known else base)
    return found & known.keys()


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ORDER else EDGE


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(path, known) - {name, PACKAGE} for name, path in known.items()}


def test_every_room_has_a_face() -> None:
    folders = {path.parent for path in (REPO / PACKAGE).rglob("*.py")}
    for folder in folders:
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
        assert text, folder
    assert {folder.name for folder in folders if folder.parent.name == PACKAGE} == {*ROOMS, "cli"}


def test_arrows_point_down(arrows: dict[str, set[str]]) -> None:
    assert len(arrows) > 150
    upwards = {
        f"{name} imports {other}"
        for name, others in arrows.items()
        for other in others
        if ORDER.index(room(other)) > ORDER.index(room(name))
    }
    assert not upwards


def test_nothing_goes_in_circles(arrows: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_modules_are_short() -> None:
    lengths = {
        str(path.relative_to(REPO)): len(path.read_text(encoding="utf-8").splitlines())
        for path in modules().values()
    }
    too_long = {name: n for name, n in lengths.items() if n > MOST_LINES}
    assert not too_long

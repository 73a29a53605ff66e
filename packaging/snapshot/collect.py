"""Gather the code of all that the plugin imports; run by Debian's Python, alone.

    python3 -I -S -B -X no_debug_ranges collect.py SOURCES OUT CALLS

What is ours is found by reading: every module that cni_faasm.__main__ reaches, also from inside
of functions, for in the snapshot it has been imported before the call. What is Python's own is
found by importing ours. OUT is a dictionary for seed.c: by name, whether it is a package, and
its code, with "" for the script. CALLS are played.py and calls.py.
"""

import ast
import importlib
import marshal
import os
import sys

PACKAGE = "cni_faasm"
ENTRY = "cni_faasm.__main__"
HERE = os.path.dirname(os.path.abspath(__file__))

# Imported by seed.py and its like.
ALWAYS = ("operator",)

# Imported inside of functions, where the snapshot has something else.
NOT_THERE = {
    "_ctypes": "posix.setns is there",
    "signal": "signals are blocked",
    "json": "_json is there",
}

# What keeps something that each process must have of its own.
FORBIDDEN = {
    "_random": "its state would be the same in every process",
    "_signal": "an interpreter without handlers cannot have it",
    "multiprocessing": "it keeps the number of this process",
    "random": "its state would be the same in every process",
    "secrets": "its state would be the same in every process",
    "tempfile": "its names would be the same in every process",
    "threading": "it keeps the number of this thread",
    "uuid": "it keeps what differs from host to host",
}


class Imports(ast.NodeVisitor):
    """Collect what a module imports, leaving out what only type checkers read."""

    def __init__(self, path: str) -> None:
        self.names: list[str] = []
        self.late: list[str] = []
        self.is_late = False
        with open(path, encoding="utf-8") as file:
            self.visit(ast.parse(file.read(), path))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before, self.is_late = self.is_late, True
        self.generic_visit(node)
        self.is_late = before

    def visit_If(self, node: ast.If) -> None:
        test = node.test
        if getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING":
            for statement in node.orelse:
                self.visit(statement)
        else:
            self.generic_visit(node)

    def add(self, name: str) -> None:
        if name.partition(".")[0] == PACKAGE:
            parts = name.split(".")
            self.names += [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
        elif self.is_late:
            self.late.append(name)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level or node.module is None:
            raise SystemExit(f"line {node.lineno}: a relative import")
        self.add(node.module)
        if node.module.partition(".")[0] == PACKAGE:
            for alias in node.names:
                self.add(f"{node.module}.{alias.name}")


def source(root: str, name: str) -> tuple[str, bool] | None:
    """Return (path, is a package) of a module below a folder, None when there is none."""
    base = os.path.join(root, *name.split("."))
    for path, is_package in ((base + "/__init__.py", True), (base + ".py", False)):
        if os.path.isfile(path):
            return path, is_package
    return None


def ours(root: str) -> tuple[list[str], list[str]]:
    """Return what the entry reaches: names of ours, and of others that functions import."""
    found: set[str] = set()
    late: set[str] = set()
    pending = [PACKAGE, ENTRY]
    while pending:
        name = pending.pop()
        place = source(root, name)
        if name in found or place is None:  # None: a name of a module, and no module
            continue
        if name.startswith(f"{PACKAGE}.cli"):
            raise SystemExit(f"{name} is the tool's, and the plugin imports it")
        found.add(name)
        imports = Imports(place[0])
        pending += imports.names
        late.update(imports.late)
    return sorted(found), sorted(late - set(NOT_THERE))


def compiled(path: str, shown: str) -> bytes:
    """Return the code of a file. Version 2: later ones depend on who else knows a constant."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    return marshal.dumps(compile(text, shown, "exec", dont_inherit=True, optimize=2), 2)


def main() -> None:
    root, out, calls = sys.argv[1:]
    library = os.path.dirname(os.__file__)
    sys.path[:] = [root, *(path for path in sys.path if "dynload" in path), library]
    names, late = ours(root)
    for name in (*ALWAYS, *names, *late):
        importlib.import_module(name)
    modules = {}
    for name in names:
        place = source(root, name)
        if place is not None:
            path, is_package = place
            modules[name] = (is_package, compiled(path, os.path.relpath(path, root)))
    for name in sorted({*sys.modules} - {*names, "__main__", "encodings"}):
        place = source(library, name)
        if (
            place is not None
            and not name.startswith("encodings.")
            and name != "importlib._bootstrap"
        ):
            path, is_package = place
            modules[name] = (is_package, compiled(path, "python/" + os.path.relpath(path, library)))
    modules["json_halves"] = (False, compiled(f"{HERE}/json_halves.py", "json_halves.py"))
    script = compiled(f"{HERE}/seed.py", "seed.py")
    played = [compiled(f"{HERE}/{name}", name) for name in ("played.py", "calls.py")]
    with open(calls, "wb") as file:
        marshal.dump(played, file, 2)
    with open(out, "wb") as file:
        marshal.dump(
            {"": script, "CALLS": played, "MODULES": modules, "LATE": late, "FORBIDDEN": FORBIDDEN},
            file,
            2,
        )


main()

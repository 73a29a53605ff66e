"""Turn the plugin's modules into one start script for the bundle.

PyInstaller's own loader costs 3 ms a start: its import hook, its archive reader, a zip
file for the standard library. The plugin needs none of it: it imports a few dozen modules
of ours and C modules of the interpreter. So its executable holds the code of our modules,
one after the other where PyInstaller's archive would be, and a single script written
here: lean_start.py with a table of where each module's code lies, and for each module the
list of those it imports at its top, so that they can be loaded without asking the import
system, and nothing is read that the call does not need.

What the modules import is read from their syntax trees; nothing is run. An import that
the bundle could not satisfy, or that would cost the plugin its speed, ends the build.
"""

import ast
import marshal
import os
import sys

PACKAGE = "cni_faasm"
ENTRY = "cni_faasm.__main__"

# C modules that Debian keeps outside of the interpreter. Nothing else can be imported by
# the plugin but our own modules and what is built in.
EXTENSIONS = ("_json",)


class LeanError(Exception):
    """Say which import cannot be in the plugin, and where it stands."""


class Module:
    """One module of the plugin: its code, and the modules of ours that it imports."""

    __slots__ = ("code", "is_package", "late", "name", "now")

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.is_package = os.path.basename(path) == "__init__.py"
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read(), path)
        self.now: list[str] = []  # imported when the module is
        self.late: list[str] = []  # imported inside functions
        imports = _Imports(self)
        imports.visit(tree)
        # The name is relative, so that the bytes do not depend on where the sources lie.
        source_name = name.replace(".", "/") + ("/__init__.py" if self.is_package else ".py")
        self.code = marshal.dumps(
            compile(_without_annotations(tree), source_name, "exec", dont_inherit=True, optimize=2)
        )


class _Imports(ast.NodeVisitor):
    """Collect what a module imports, leaving out what only type checkers read."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self._late = False
        self._optional = False

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        late, self._late = self._late, True
        self.generic_visit(node)
        self._late = late

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for statement in node.orelse:
                self.visit(statement)
        else:
            self._visit_choice(node)

    def visit_Try(self, node: ast.Try) -> None:
        self._visit_choice(node)

    def _visit_choice(self, node: ast.stmt) -> None:
        # "try: import _x / except ImportError: import x": the second is never reached in
        # the bundle, whose interpreter is known.
        optional, self._optional = self._optional, True
        self.generic_visit(node)
        self._optional = optional

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level:
            raise LeanError(f"{self._module.name}:{node.lineno}: relative import")
        name = node.module or ""
        self._add(name, node.lineno)
        for alias in node.names:
            if _path(f"{name}.{alias.name}"):
                self._add(f"{name}.{alias.name}", node.lineno)

    def _add(self, name: str, line: int) -> None:
        if name.partition(".")[0] == PACKAGE:
            if not _path(name):
                raise LeanError(f"{self._module.name}:{line}: no module named {name}")
            names = self._module.late if self._late else self._module.now
            parts = name.split(".")
            names += [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
        elif not (name in sys.builtin_module_names or name in EXTENSIONS or self._optional):
            raise LeanError(
                f"{self._module.name}:{line}: imports {name}; the plugin may import only its own "
                f"modules, built-in ones, and {', '.join(EXTENSIONS)}"
            )


class _Annotations(ast.NodeTransformer):
    """Take annotations out: making them costs time at each start, and nobody reads them."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        self.generic_visit(node)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([node.target], node.value), node)


def _without_annotations(tree: ast.Module) -> ast.Module:
    _Annotations().visit(tree)
    return ast.fix_missing_locations(tree)


_root = ""


def _path(name: str) -> str:
    """Return the source file of a module of ours, or "" when there is none."""
    base = os.path.join(_root, *name.split("."))
    for path in (base + "/__init__.py", base + ".py"):
        if os.path.isfile(path):
            return path
    return ""


def collect(root: str) -> dict[str, Module]:
    """Return every module that the plugin can ever import, by name.

    root: the folder that holds the package.
    Raises: LeanError.
    """
    global _root  # noqa: PLW0603 -- set once per build
    _root = root
    modules: dict[str, Module] = {}
    pending = [PACKAGE, ENTRY]
    while pending:
        name = pending.pop()
        if name not in modules:
            modules[name] = module = Module(name, _path(name))
            pending += module.now + module.late
    return dict(sorted(modules.items()))


def needs(modules: dict[str, Module], name: str) -> tuple[str, ...]:
    """Return what importing a module imports, in the order in which it is executed."""
    order: list[str] = []
    seen = {name}

    def walk(current: str) -> None:
        for each in modules[current].now:
            if each not in seen:
                seen.add(each)
                walk(each)
                order.append(each)

    walk(name)
    return tuple(order)


def start_script(root: str) -> tuple[str, bytes]:
    """Return the source of the plugin's only script, and the code of its modules."""
    modules = collect(root)
    entered = {ENTRY}.union(*(module.late for module in modules.values()))
    with open(os.path.join(os.path.dirname(__file__), "lean_start.py"), encoding="utf-8") as file:
        template = file.read()
    code = b""
    places = {}
    for module in modules.values():
        places[module.name] = (len(code), len(module.code))
        code += module.code
    tables = {
        "CODE": places,
        "PACKAGES": tuple(module.name for module in modules.values() if module.is_package),
        "NEEDS": {name: needs(modules, name) for name in sorted(entered)},
        "EXTENSIONS": EXTENSIONS,
    }
    for name, table in tables.items():
        head, mark, tail = template.partition(f"\n{name}: ")
        if not mark:
            raise LeanError(f"lean_start.py has no table {name}")
        template = f"{head}\n{name} = {table!r}\n{tail.partition(chr(10))[2]}"
    return template, code

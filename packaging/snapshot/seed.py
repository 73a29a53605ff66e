"""Import the plugin, and leave its main() behind as `main`. Run by seed.c, in the seed.

Its names are collect.py's dictionary. No module is found in any other way but those of C.
"""

import _thread

# Locks of modules compare the numbers of threads. This process's own must stay nowhere; not even
# its length, to which comparisons adapt themselves.
_get_ident = _thread.get_ident
_thread.get_ident = lambda: 1

import _frozen_importlib
import gc
import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

# By name: whether it is a package, and its marshalled code.
MODULES: "dict[str, tuple[bool, bytes]]" = globals()["MODULES"]
CALLS: "list[bytes]" = globals()["CALLS"]
LATE: "list[str]" = globals()["LATE"]  # what functions of ours import
FORBIDDEN: "dict[str, str]" = globals()["FORBIDDEN"]
# Of this process's own folder, so it is the same wherever that is. build.py makes it.
PLAYED = "/proc/self/cwd/played"
ADAPTED_AFTER = 16  # calls: instructions are adapted after eight, and then settle

gc.disable()

# Codecs are the interpreter's own. But before it raises a UnicodeDecodeError it imports this
# package, and the error would be that there is none.
sys.modules["encodings"] = type(sys)("encodings")

# For cni_faasm: how it was started.
sys._is_snapshot = True  # type: ignore[attr-defined]


class Finder:
    """Find and load what is in MODULES."""

    @staticmethod
    def find_spec(
        name: str, path: object = None, target: object = None
    ) -> "_frozen_importlib.ModuleSpec | None":
        if name in FORBIDDEN:
            raise ImportError(f"{name}: {FORBIDDEN[name]}")
        if name not in MODULES:
            return None
        is_package, _ = MODULES[name]
        return _frozen_importlib.ModuleSpec(name, Finder, is_package=is_package)  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: object) -> None:
        pass

    @staticmethod
    def exec_module(module: "ModuleType") -> None:
        exec(marshal.loads(MODULES[module.__name__][1]), module.__dict__)


sys.meta_path[:] = [Finder, _frozen_importlib.BuiltinImporter]
# What an interpreter of which not all is wanted lacks, and modules of the library ask for.
sys.warnoptions = []
sys.path_hooks = []
sys.path = []
sys.path_importer_cache = {}
import _io
import builtins

builtins.open = _io.open

# What simplejson's C half asks for when it is imported.
for _name, _names in (
    ("simplejson", {}),
    ("simplejson.errors", {"JSONDecodeError": type("JSONDecodeError", (ValueError,), {})}),
    ("simplejson.raw_json", {"RawJSON": type("RawJSON", (), {})}),
):
    sys.modules[_name] = type(sys)(_name)
    sys.modules[_name].__dict__.update(_names)
import json_halves

sys.modules["_json"] = json_halves

for _name in sorted(MODULES):
    if _name.partition(".")[0] == "cni_faasm":
        __import__(_name)
for _name in LATE:
    __import__(_name)


def remembered() -> "dict[str, dict[Any, Any]]":
    """Return what our modules, their classes and their objects hold, and what is in it."""
    found: dict[str, dict[Any, Any]] = {}
    for name, module in sys.modules.items():
        if name.partition(".")[0] != "cni_faasm":
            continue
        found[name] = dict(vars(module))
        for key, value in vars(module).items():
            kind = value if isinstance(value, type) else type(value)
            if isinstance(value, dict):
                found[f"{name}.{key}"] = dict(value)
            elif isinstance(value, (list, set)):
                found[f"{name}.{key}"] = dict(enumerate(value))
            elif kind.__module__ == name and kind is value:
                found[f"{name}.{key}"] = dict(vars(kind))
            elif kind.__module__ == name:
                names = (*getattr(kind, "__slots__", ()), *getattr(value, "__dict__", ()))
                found[f"{name}.{key}"] = {one: getattr(value, one, None) for one in names}
    return found


main = sys.modules["cni_faasm.__main__"].main

# Python's instructions adapt themselves to what they are given, and names are remembered where they
# were found, when a function has been called some times. In a call that would come too late.
_calls: "dict[str, Any]" = {"FOLDER": PLAYED, "TIMES": 0}
for _code in CALLS:
    exec(marshal.loads(_code), _calls)
_before = remembered()
for _ in range(ADAPTED_AFTER):
    _calls["main"](1)
    gc.collect()  # what calls leave is no part of the snapshot, and takes room there
# What imports have looked up is forgotten, for what takes its place writes to its name.
sys._clear_type_cache()
_calls["main"](1)
# A process that goes on from here must find nothing of a call that was played. What Python notes of
# sockets that a child leaves to the kernel is no matter: no child goes on after its end.
vars(sys.modules["cni_faasm.link.removal"]).pop("__warningregistry__", None)
_after = remembered()
for _name, _held in _before.items():
    for _key in {*_held, *_after[_name]}:
        if _held.get(_key) is not _after[_name].get(_key):
            raise SystemExit(f"packaging/snapshot/calls.py: a call has left {_key} in {_name}")
_calls.clear()
del _before, _after, _held, _key

_thread.get_ident = _get_ident

# From here on nothing can be imported but what has been.
sys.meta_path[:] = [_frozen_importlib.BuiltinImporter]
for _name in ("simplejson", "simplejson.errors", "simplejson.raw_json"):
    del sys.modules[_name]

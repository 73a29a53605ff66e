"""Start the plugin inside its bundle. packaging/lean.py fills the tables.

The bootloader runs this as __main__ in an isolated interpreter: no PYTHON* variable, no
site, no current directory on the path. From here on nothing can be imported but what
stands in the tables and what is built into the interpreter.
"""

import _frozen_importlib
import _imp
import gc
import marshal
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType

CODE: "dict[str, tuple[int, int]]" = {}
PACKAGES: "tuple[str, ...]" = ()
NEEDS: "dict[str, tuple[str, ...]]" = {}
EXTENSIONS: "tuple[str, ...]" = ()

# One call lives for some milliseconds: no garbage is worth looking for.
gc.disable()

# Every codec that is used is the interpreter's own. But before it raises a UnicodeDecodeError it
# imports this package, and the error would be that there is none.
sys.modules["encodings"] = type(sys)("encodings")

_CONTENTS: str = sys._MEIPASS  # type: ignore[attr-defined]
_modules = sys.modules
_Module = type(sys)

# Where the bootloader says that PyInstaller's archive of modules begins lies our code.
# Kept open: whoever installs another version does not disturb a call.
_executable, _, _offset = sys._pyinstaller_pyz.rpartition("?")  # type: ignore[attr-defined]
_start = int(_offset)
_file = posix.open(_executable, posix.O_RDONLY | posix.O_CLOEXEC)
while _file <= 2:
    # Standard descriptors that the caller closed must not be taken by what is opened here
    # or later. These read as empty, and writing to them fails as it would have.
    _taken = _file
    _file = posix.dup(_file)
    _null = posix.open("/dev/null", posix.O_RDONLY | posix.O_CLOEXEC)
    posix.dup2(_null, _taken)
    posix.close(_null)


def _code(name: str) -> "CodeType":
    offset, length = CODE[name]
    code: CodeType = marshal.loads(posix.pread(_file, length, _start + offset))
    return code


def _load(name: str) -> None:
    """Make a module without the import system, which would take ten times as long."""
    module = _Module(name)
    if name in PACKAGES:
        module.__path__ = []
        module.__package__ = name
    else:
        module.__package__ = name.rpartition(".")[0]
    _modules[name] = module
    try:
        exec(_code(name), module.__dict__)
    except BaseException:
        del _modules[name]
        raise
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(_modules[parent], child, module)


class _Finder:
    """Find our modules, and the few C modules that lie beside the interpreter."""

    @staticmethod
    def find_spec(
        name: str, path: object = None, target: object = None
    ) -> "_frozen_importlib.ModuleSpec | None":
        if name in CODE:
            for each in NEEDS.get(name, ()):
                if each not in _modules:
                    _load(each)
            return _frozen_importlib.ModuleSpec(
                name,
                _Finder,  # type: ignore[arg-type]
                is_package=name in PACKAGES,
            )
        if name in EXTENSIONS:
            # For instance python3.11/lib-dynload/_json.cpython-311-x86_64-linux-gnu.so.
            file = (
                f"{_CONTENTS}/python{sys.version_info[0]}.{sys.version_info[1]}/lib-dynload/"
                f"{name}{_imp.extension_suffixes()[0]}"
            )
            return _frozen_importlib.ModuleSpec(name, _Extension, origin=file)  # type: ignore[arg-type]
        return None

    @staticmethod
    def create_module(spec: object) -> None:
        pass

    @staticmethod
    def exec_module(module: "ModuleType") -> None:
        exec(_code(module.__name__), module.__dict__)


class _Extension:
    """Load a C module. importlib's own loader is not there."""

    @staticmethod
    def create_module(spec: "_frozen_importlib.ModuleSpec") -> "ModuleType":
        return _imp.create_dynamic(spec)

    @staticmethod
    def exec_module(module: "ModuleType") -> None:
        _imp.exec_dynamic(module)


sys.meta_path[:] = [_Finder, _frozen_importlib.BuiltinImporter, _frozen_importlib.FrozenImporter]
for _paths in ("path_hooks", "path"):  # neither is there, as a rule
    if hasattr(sys, _paths):
        getattr(sys, _paths).clear()

# The bootloader's own variables: of no concern to a program that the plugin executes.
for _name in (b"_PYI_ARCHIVE_FILE", b"_PYI_PARENT_PROCESS_LEVEL", b"_PYI_LINUX_PROCESS_NAME"):
    if posix.environ.pop(_name, None) is not None:
        posix.unsetenv(_name)

try:
    from cni_faasm.__main__ import main

    main()
except BaseException as error:
    # main() answers every fault of its own. What arrives here is a bundle with parts missing.
    text = ascii(f"{type(error).__name__}: {error}")[1:-1].replace("\\", "/").replace('"', "'")
    answer = (
        '{"cniVersion": "1.0.0", "code": 100, "msg": "the plugin cannot start: '
        f'{text}", "details": "its folder is incomplete; install it again"}}\n'
    )
    posix.write(1, answer.encode())
    posix._exit(1)

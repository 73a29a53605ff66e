"""Read one JSON object of the configuration by the keys that it may have.

Keys match without regard to case, as Go's decoder does and containerd relies on; null is
the same as absent. Every fault is collected, none raised. Unknown keys pass, since other
plugins and later specifications have their own, unless they look like a slip of the pen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from cni_faasm.config.keys import names
from cni_faasm.config.nearmiss import nearest
from cni_faasm.spec import inet, jsonio

T = TypeVar("T")


TOP = names("")
BANDWIDTH = names("bandwidth")
SHARED = names("bandwidth.shared")
IPAM = names("ipam")
RANGE = names("ipam.ranges[][]")
ROUTE = names("ipam.routes[]")
DNS = names("dns")
SLOT = names("slot")
RUNTIME = names("runtimeConfig")
RUNTIME_BANDWIDTH = names("runtimeConfig.bandwidth")
RUNTIME_DNS = names("runtimeConfig.dns")
PORT = names("runtimeConfig.portMappings[]")
ARGS = names("args")
ARGS_CNI = names("args.cni")
ATTACHMENT = names("cni.dev/valid-attachments[]")

# Where each key stands, below the plugin's own object.
_HOMES = (
    ("", TOP),
    ("bandwidth.", BANDWIDTH),
    ("bandwidth.shared.", SHARED),
    ("ipam.", IPAM),
    ("ipam.ranges[][].", RANGE),
    ("ipam.routes[].", ROUTE),
    ("dns.", DNS),
)

MAX_ITEMS = 8192  # of a list

# Keys of the specification, the runtimes and other plugins: never taken for slips.
FOREIGN = frozenset(
    "cniVersions disableCheck disableGC plugins bridge master mode vlan mac macspoofchk name"
    " isGateway isDefaultGateway forceAddress hairpinMode promiscMode ipMasqBackend"
    " loadOnlyInlinedPlugins loadPluginsFromFolder portMappings aliases infinibandGUID"
    " deviceID cgroupPath labels address addresses tag id uid"
    " pod namespace cri".lower().split()
)


class Fault:
    """One fault of a configuration: where, what stands there, what is allowed.

    found: how the value is told, such as `value "10Q"`. must: in the place of what is allowed,
    what the value must be or not be.
    """

    __slots__ = ("allowed", "found", "must", "path", "value")

    def __init__(
        self, path: str, value: object, allowed: str = "", found: str = "", *, must: str = ""
    ) -> None:
        self.path = path
        self.value = value
        self.allowed = allowed
        self.must = must
        self.found = found or "value " + shown(value)

    def __str__(self) -> str:
        if self.must:
            return f"{self.path}: {self.found} must {self.must}"
        return f"{self.path}: {self.found}: allowed is {self.allowed}"


def shown(value: object) -> str:
    """Return a value as a fault shows it: JSON's words, at most 60 characters."""
    if value is None:
        text = "null"
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, dict):
        text = "{...}" if value else "{}"
    elif isinstance(value, list):
        text = "[...]" if value else "[]"
    else:
        text = jsonio.dumps(value).decode("utf-8", "replace")
    return text if len(text) <= 60 else text[:57] + "..."


class Faults(list[Fault]):
    """What is wrong with a configuration; patience: for how many more keys a slip is looked for.

    Comparing takes as long as reading a page, and a configuration may have a million keys.
    root: the path of the plugin's own object, with a dot at its end, or "". unknown: the paths
    of keys that nobody here reads.
    """

    __slots__ = ("patience", "root", "unknown")

    def __init__(self, root: str = "") -> None:
        list.__init__(self)
        self.patience = 256
        self.root = root
        self.unknown: list[str] = []


class Section:
    """One JSON object of the configuration. Each reader returns None for what is absent.

    A reader that finds a fault notes it and returns None as well, so that the rest is
    still read. path: of the object, with a dot at its end, or "".
    """

    __slots__ = ("faults", "path", "values")

    def __init__(
        self,
        document: dict[str, object],
        known: dict[str, str],
        path: str,
        faults: Faults,
    ) -> None:
        self.path = path
        self.faults = faults
        values: dict[str, object] = {}
        for key, value in document.items():
            name = known.get(key.lower())
            if name is None:
                self._unknown(key, known)
            elif value is not None:
                values[name] = value
        self.values = values

    def _unknown(self, key: str, known: dict[str, str]) -> None:
        if not self.faults.patience or key.lower() in FOREIGN or "/" in key or "." in key:
            return
        self.faults.patience -= 1
        # Elsewhere it would be passed over in silence, and a limit or a guard with it.
        if any(known is place for _, place in _HOMES):
            homes = [
                f"{self.faults.root}{path}{place[key.lower()]}"
                for path, place in _HOMES
                if key.lower() in place
            ]
            if homes:
                text = "it has no meaning here"
                self.faults.append(Fault(self.path + key, key, " or ".join(homes), text))
                return
        name = nearest(key.lower(), known)
        if name is not None:
            self.faults.append(Fault(self.path + key, key, name, "no such key"))
        elif any(known is place for _, place in _HOMES):
            self.faults.unknown.append(self.path + key)

    def fault(self, key: str, allowed: str = "", *, must: str = "") -> None:
        """Note that the value at a key, or its absence, is not allowed. must: as in Fault."""
        if key in self.values:
            self.faults.append(Fault(self.path + key, self.values[key], allowed, must=must))
        else:
            self.faults.append(Fault(self.path + key, None, allowed, "missing"))

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is None or isinstance(value, str):
            return value
        self.fault(key, "text")
        return None

    def flag(self, key: str) -> bool | None:
        value = self.values.get(key)
        if value is None or isinstance(value, bool):
            return value
        self.fault(key, "true or false")
        return None

    def number(self, key: str, low: int, high: int) -> int | None:
        value = self.values.get(key)
        if value is None:
            return None
        number = jsonio.whole(value)
        if number is not None and low <= number <= high:
            return number
        self.fault(key, f"a number from {low} to {high}")
        return None

    def parsed(self, key: str, parse: Callable[[object], T], allowed: str) -> T | None:
        """Return parse(value); its ValueError becomes a fault."""
        value = self.values.get(key)
        if value is None:
            return None
        try:
            return parse(value)
        except (ValueError, OverflowError):
            self.fault(key, allowed)
            return None

    def items(self, key: str) -> list[object]:
        """Return a list; an empty one when it is absent, a fault or longer than MAX_ITEMS."""
        value = self.values.get(key)
        if isinstance(value, list):
            if len(value) <= MAX_ITEMS:
                return value
            self.fault(key, f"a list of at most {MAX_ITEMS}")
            return []
        if value is not None:
            self.fault(key, "a list")
        return []

    def texts(self, key: str) -> list[str]:
        """Return a list of text."""
        found: list[str] = []
        for index, item in enumerate(self.items(key)):
            if isinstance(item, str):
                found.append(item)
            else:
                self.faults.append(Fault(f"{self.path}{key}[{index}]", item, "text"))
        return found

    def section(self, key: str, known: dict[str, str]) -> Section | None:
        """Return the object at a key."""
        value = self.values.get(key)
        if isinstance(value, dict):
            return Section(value, known, f"{self.path}{key}.", self.faults)
        if value is not None:
            self.fault(key, "a JSON object")
        return None

    def sections(self, key: str, known: dict[str, str]) -> Iterator[Section]:
        """Return a list of objects; what is no object is a fault and left out."""
        return objects(self.items(key), known, self.path + key, self.faults)


def objects(
    items: list[object], known: dict[str, str], path: str, faults: Faults
) -> Iterator[Section]:
    """Yield the objects of a list; what is no object is a fault and left out.

    After more than MAX_ITEMS faults the rest is left out.
    """
    for index, item in enumerate(items):
        if len(faults) > MAX_ITEMS:
            break
        where = f"{path}[{index}]"
        if isinstance(item, dict):
            yield Section(item, known, where + ".", faults)
        else:
            faults.append(Fault(where, item, "a JSON object"))


def address(value: object) -> bytes:
    """Return a packed address. Raises: ValueError."""
    if not isinstance(value, str):
        raise ValueError(value)  # noqa: TRY004 -- one exception for "not allowed"
    return inet.pack(value)


def network(value: object) -> tuple[bytes, int]:
    """Return (packed address, prefix_len). Raises: ValueError."""
    if not isinstance(value, str):
        raise ValueError(value)  # noqa: TRY004 -- as above
    return inet.parse_cidr(value)


def mac(value: object) -> bytes | None:
    """Return the six bytes of a MAC address, None for "". Raises: ValueError."""
    if not isinstance(value, str):
        raise ValueError(value)  # noqa: TRY004 -- as above
    return inet.parse_mac(value) if value else None


def optional_address(value: object) -> bytes | None:
    """Return a packed address, None for "". Raises: ValueError."""
    return None if value == "" else address(value)

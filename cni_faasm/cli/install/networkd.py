"""Say whether systemd-networkd leaves the host's ends of containers alone.

networkd configures an interface by the first .network file, in the order of names, whose [Match]
section it meets, and takes off what addresses and routes that does not name. Ours says that
nothing is to be done with the ends. It is beside the point where another comes first.
"""

import fnmatch
import os
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from cni_faasm.cli.install import systemd
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.link import egress

OURS = "00-cni-faasm.network"
RULES = "85-cni-faasm.rules"
RULES_FOLDERS = ("etc/udev/rules.d", "run/udev/rules.d", "usr/lib/udev/rules.d", "lib/udev/rules.d")
# From this version on the mark alone is enough.
HONOURS_MARK = 256
_STATES = "/run/systemd/netif/links"
_TRUE = ("1", "yes", "y", "true", "t", "on")
# What an end has none of: only a negated list matches.
_LACKING = ("path", "permanentmacaddress", "macaddress", "ssid", "bssid", "wlaninterfacetype")


class End(NamedTuple):
    """What a [Match] section may ask of an interface. properties: of udev's."""

    name: str
    kind: str
    properties: dict[str, str]


class Section(NamedTuple):
    """One .network file: its [Match] section, keys folded, and whether it says Unmanaged=."""

    path: str
    match: dict[str, str]
    unmanaged: bool


def surprises(config: NetworkConfig, where: str) -> Iterator[tuple[str, str]]:
    """Yield (key, text) when networkd gets in the way of a network on this host.

    where: the path of the plugin's object.
    """
    text = _surprise(config)
    if text:
        yield f"{where}hostInterfacePrefix", text


def _surprise(config: NetworkConfig) -> str:
    if not systemd.is_active(systemd.NETWORKD):
        return ""
    for name, path in managed():
        return (
            f"systemd-networkd configures {name}, by {path}: its addresses and routes have gone, "
            "or will; mend that, then networkctl reload, then cni-faasm repair"
        )
    if config.shapes_only or (systemd.version() >= HONOURS_MARK and rules_count("/")):
        return ""
    prefix = config.host_interface_prefix
    ends = [("veth", f"{prefix}0"), ("veth", f"{prefix}12")]
    if config.enforce_egress:
        ends.append(("ifb", egress.device_name(f"{prefix}0")))
    for kind, name in ends:
        found = configurer(kind, name)
        if found:
            return (
                f"{found} has systemd-networkd configure {name} and the like, which takes off "
                f"addresses and routes; {OURS}, which cni-faasm install puts there with {RULES}, "
                "would keep it from that if its name sorted first"
            )
    return ""


def configurer(kind: str, name: str, root: str = "/") -> str:
    """Return the file by which networkd would configure an end of ours, "" when none."""
    properties = {"INTERFACE": name, "ID_NET_DRIVER": kind}
    if rules_count(root):
        properties["ID_NET_MANAGED_BY"] = "cni-faasm"
    end = End(name, kind, properties)
    first = next((one for one in sections(root) if matches(one.match, end)), None)
    return first.path if first is not None and not first.unmanaged else ""


def managed() -> Iterator[tuple[str, str]]:
    """Yield (name, file) of the ends that networkd configures at this moment."""
    for name in systemd.ends():
        state = _assignments(f"{_STATES}/{systemd.ifindex_of(name)}")
        if state.get("ADMIN_STATE") in ("configuring", "configured", "failed"):
            yield name, state.get("NETWORK_FILE", "")


def sections(root: str = "/") -> Iterator[Section]:
    """Yield the files that count, in their order."""
    files: dict[str, str] = {}
    for folder in systemd.NETWORK_FOLDERS:
        for name in _listed(os.path.join(root, folder)):
            if name.endswith(".network"):
                files.setdefault(name, os.path.join(root, folder, name))
    for name, path in sorted(files.items()):
        if _is_masked(path):
            continue
        keys: dict[str, list[str]] = {}
        for one in (path, *_drop_ins(root, name)):
            _read(one, keys)
        found = {
            key.removeprefix("match."): " ".join(values)
            for key, values in keys.items()
            if key.startswith("match.") and any(values)
        }
        if found:  # without one networkd passes the file over
            said = keys.get("link.unmanaged", [""])[-1]
            yield Section(path, found, said.lower() in _TRUE)


def matches(match: dict[str, str], end: End) -> bool:
    """Say whether a [Match] section is met by an end.

    What it asks of the host (Host=, KernelVersion= ...) counts as met.
    """
    values = {"name": end.name, "originalname": end.name, "type": "ether"}
    values |= {"kind": end.kind, "driver": end.kind}
    for key, text in match.items():
        negated = text.startswith("!")
        words = _words(text.removeprefix("!"))
        if key == "property":
            met = all(_has(end.properties, word) for word in words)
        elif key in values:
            met = any(fnmatch.fnmatchcase(values[key], word) for word in words)
        elif key in _LACKING:
            met = False
        else:
            continue
        if met == negated:
            return False
    return True


def rules_count(root: str) -> bool:
    """Say whether udev marks the ends: our rules are there, and no file of their name hides them."""
    for folder in RULES_FOLDERS:
        path = os.path.join(root, folder, RULES)
        if os.path.lexists(path):
            return not _is_masked(path)
    return False


def _has(properties: dict[str, str], word: str) -> bool:
    name, _, pattern = word.partition("=")
    return name in properties and fnmatch.fnmatchcase(properties[name], pattern)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _drop_ins(root: str, name: str) -> list[str]:
    files: dict[str, str] = {}
    for folder in systemd.NETWORK_FOLDERS:
        below = os.path.join(root, folder, f"{name}.d")
        for one in _listed(below):
            if one.endswith(".conf"):
                files.setdefault(one, os.path.join(below, one))
    return [path for _, path in sorted(files.items()) if not _is_masked(path)]


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _is_masked(path: str) -> bool:
    """Say whether a file only hides one of the same name: it is empty, or /dev/null."""
    try:
        return os.stat(path).st_size == 0
    except OSError:
        return False


def _read(path: str, keys: dict[str, list[str]]) -> None:
    """Add the assignments of a file, by "section.key" in lower case; an empty one undoes earlier."""
    section = ""
    for line in _lines(path):
        if line.startswith("["):
            section = line.strip("[]").lower()
        elif "=" in line:
            name, _, value = line.partition("=")
            key, value = f"{section}.{name.strip().lower()}", value.strip()
            if value:
                keys.setdefault(key, []).append(value)
            else:
                keys[key] = []


def _lines(path: str) -> Iterator[str]:
    """Yield a file's lines: without comments, continued ones joined."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return
    begun = ""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith(("#", ";")) or not (stripped or begun):
            continue
        if stripped.endswith("\\"):
            begun += stripped[:-1] + " "
            continue
        yield begun + stripped
        begun = ""


def _assignments(path: str) -> dict[str, str]:
    return {
        name: value.strip()
        for name, separator, value in (line.partition("=") for line in _lines(path))
        if separator
    }

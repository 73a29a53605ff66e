"""Find out which networks this host knows, so that a new one is none of them."""

import os
from collections.abc import Iterator

from cni_faasm.netlink import dumps
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec import inet, jsonio
from cni_faasm.spec.errors import CniError

Subnets = list[tuple[bytes, int]]

NETWORKS_DIR = "/etc/containers/networks"  # podman's
CNI_DIR = "/etc/cni/net.d"
# podman's own, which has no file as long as nobody changes it.
DEFAULT_NETWORK = {"podman": [(bytes((10, 88, 0, 0)), 16)]}
_LIMIT = 1 << 20


def of_networks() -> dict[str, Subnets]:
    """Return the subnets of podman's networks, by their names."""
    found: dict[str, Subnets] = dict(DEFAULT_NETWORK)
    for _, document in _documents(NETWORKS_DIR):
        found[str(document.get("name"))] = list(_subnets(document.get("subnets")))
    return found


def names() -> dict[str, str]:
    """Return the names of the networks that CNI's files have for us, each with the file."""
    found: dict[str, str] = {}
    for path, document in _documents(CNI_DIR):
        plugins = document.get("plugins", [document])
        types = (
            [one.get("type") for one in plugins if isinstance(one, dict)]
            if isinstance(plugins, list)
            else []
        )
        if "faasm" in types:
            found[str(document.get("name"))] = path
    return found


def of_host() -> Subnets:
    """Return the networks that CNI's files name or that the host has routes to."""
    found = [one for _, document in _documents(CNI_DIR) for one in _subnets(document)]
    try:
        with Netlink() as host:
            for family in (2, 10):  # AF_INET, AF_INET6
                found += [(one.dst, one.prefix_len) for one in dumps.routes(host, family)]
    except NetlinkError:
        return found
    return [(address, length) for address, length in found if address and length]


def _documents(folder: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield (path, JSON object) of a folder's files; what cannot be read is passed over."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        try:
            path = f"{folder}/{name}"
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                document = jsonio.loads(os.read(file, _LIMIT))
            finally:
                os.close(file)
        except (OSError, CniError):
            continue
        if isinstance(document, dict):
            yield path, document


def _subnets(value: object) -> Iterator[tuple[bytes, int]]:
    """Yield what stands as "subnet" anywhere in a document."""
    if isinstance(value, list):
        for one in value:
            yield from _subnets(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            if key == "subnet" and isinstance(one, str):
                try:
                    address, length = inet.parse_cidr(one)
                except ValueError:
                    continue
                yield inet.network(address, length), length
            else:
                yield from _subnets(one)

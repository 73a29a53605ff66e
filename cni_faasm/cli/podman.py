"""Find the networks of podman 5's that are ours: it keeps them in files of its own, not CNI's."""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from cni_faasm.netavark import network as networks
from cni_faasm.netavark import taken
from cni_faasm.netavark.given import Given
from cni_faasm.spec import jsonio
from cni_faasm.spec.errors import CniError

DRIVER = "faasm"


class Filed(NamedTuple):
    """One of podman's networks: the CNI configuration that it is, and what is wrong with it."""

    name: str
    document: dict[str, object]
    faults: list[str]


def listed() -> Iterator[tuple[str, Filed | str]]:
    """Yield each file that is of one of our networks, or why it cannot be known whether it is."""
    try:
        names = sorted(os.listdir(taken.NETWORKS_DIR))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        yield taken.NETWORKS_DIR, error.strerror or str(error)
        return
    for name in names:
        path = os.path.join(taken.NETWORKS_DIR, name)
        if not name.endswith(".json") or os.path.isdir(path):
            continue
        try:
            found = _read(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            yield path, error.strerror or str(error)
        except CniError as error:
            yield path, error.msg
        else:
            if found is not None:
                yield path, found


def _read(path: str) -> Filed | None:
    with open(path, "rb") as file:
        given: dict[str, Any] = jsonio.load_object(file.read(), path)
    if given.get("driver") != DRIVER:
        return None
    network = Given(given)
    faults: list[str] = []
    return Filed(network.text("name"), networks.document(network, faults), faults)

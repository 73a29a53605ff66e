"""Tell containers by the names that their runtimes gave them.

The attachment's record keeps it. libcni keeps each ADD's arguments beside its result, until DEL, so
containers that were attached by an earlier version have their names, too.
"""

import json
from typing import Any

from cni_faasm.attachment import accepted

LIBCNI_CACHE = "/var/lib/cni/results"


def cached(network: str, container_id: str, ifname: str) -> dict[str, Any]:
    """Return what libcni keeps of an attachment, {} where it keeps nothing."""
    try:
        with open(_path(network, container_id, ifname), "rb") as file:
            document = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _path(network: str, container_id: str, ifname: str) -> str:
    return f"{LIBCNI_CACHE}/{network}-{container_id}-{ifname}"


def of(network: str, container_id: str, ifname: str) -> str:
    """Return a container's name: "c1" of podman's, "namespace/pod" of a pod, "" of none."""
    document = cached(network, container_id, ifname)
    if (document.get("containerId"), document.get("ifName")) != (container_id, ifname):
        return ""  # the parts of the file's name may be another's, divided otherwise
    pairs = document.get("cniArgs")
    found = {
        pair[0]: pair[1]
        for pair in (pairs if isinstance(pairs, list) else ())
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
    }
    return accepted.name_in(found)

"""Take away what netavark did not tear down before it sets a container up.

It tells nothing of a namespace that has gone, and podman gives the addresses away again; nor of
a setup that was killed. So an attachment that is in the way and whose interface is no longer
anywhere is detached first.
"""

from cni_faasm.attachment import plan_fields
from cni_faasm.config import loading as configuration
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.ipam.store import Store
from cni_faasm.link import netns, veth
from cni_faasm.netavark.container import Call
from cni_faasm.spec import inet
from cni_faasm.spec.errors import CniError
from cni_faasm.spec.protocol import Request
from cni_faasm.verbs.delete import delete


def detach(call: Call, warnings: list[str]) -> None:
    """Detach the container's own dead attachment, and the dead ones that have its addresses.

    Raises: CniError.
    """
    config = configuration.load_tolerant(call.document)
    own = call.variables["CNI_CONTAINERID"], call.variables["CNI_IFNAME"]
    holders = {own}
    with Store(config.data_dir, config.name, create=False, lock=False) as store:
        holders |= {owner for one in call.addresses if (owner := store.owner(inet.pack(one)))}
    for container_id, ifname in sorted(holders):
        if _is_dead(config, container_id, ifname):
            document = {**call.document, "runtimeConfig": None}
            delete(
                Request(verb="DEL", container_id=container_id, ifname=ifname, document=document),
                warnings,
            )


def _is_dead(config: NetworkConfig, container_id: str, ifname: str) -> bool:
    """Say whether there is a record, and no such interface in its namespace any more."""
    try:
        promised = plan_fields.load(config.state_dir, config.name, container_id, ifname)
    except CniError:
        return False  # what cannot be read, ADD refuses
    if promised is None:
        return False
    try:
        with netns.connect(promised.netns) as inner:
            return veth.find(inner, name=ifname) is None
    except netns.NoNamespaceError:
        return True
    except CniError:
        return False

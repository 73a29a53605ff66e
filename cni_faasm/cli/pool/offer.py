"""Say in a slot's file all that a runtime needs of a member (docs/slots.md)."""

from typing import Any

from cni_faasm.attachment.plan import Plan
from cni_faasm.cli import attachments, output
from cni_faasm.cli.pool import machines, netfolder, resolvers
from cni_faasm.cli.pool.making import Builder
from cni_faasm.cli.pool.slotfiles import FREE, SlotFiles
from cni_faasm.config.slot import Slot
from cni_faasm.limits.shaping import Shape
from cni_faasm.spec import inet


def document(
    pool: str, number: int, promised: Plan, resolv_conf: str, slot: Slot | None = None
) -> dict[str, Any]:
    """Return what the file of a member says.

    resolv_conf: the text of the one that it has, "" for none. slot: what it has inside.
    """
    name = promised.container_id
    words = [line.split() for line in resolv_conf.splitlines()]
    return {
        "slot": number,
        "pool": pool,
        "network": promised.network,
        "containerID": name,
        "netns": netfolder.path_of(name),
        "ifname": promised.ifname,
        "hostInterface": promised.host_interface,
        "mac": inet.mac_text(promised.mac),
        "mtu": promised.mtu,
        "addresses": [inet.cidr(one.address, one.prefix_len) for one in promised.addresses],
        "gateways": [inet.unpack(one.gateway) for one in promised.addresses],
        "dns": {"nameservers": [line[1] for line in words if line[:1] == ["nameserver"]]},
        "resolvConf": f"{netfolder.ETC}/{name}/resolv.conf" if resolv_conf else None,
        "ingress": limit_of(promised.ingress),
        "egress": limit_of(promised.egress),
        "machine": None if slot is None else machines.document(slot),
    }


def limit_of(shape: Shape | None) -> dict[str, Any]:
    """Return one direction of an attachment for machines."""
    if shape is None:
        return output.limit(None, None)
    return output.limit(shape.rate_bps, shape.burst_bytes)


def offer(
    files: SlotFiles,
    builder: Builder,
    number: int,
    promised: Plan | None = None,
    state: str = FREE,
) -> None:
    """Let anybody claim a member that is whole and in no state yet. Raises: OSError.

    promised: its plan where it is known; else its record tells. state: RESERVE lets nobody claim it.
    """
    name, ifname = builder.names.namespace(number), builder.names.inner(number)
    if promised is None:
        promised = attachments.load(builder.state_dir, builder.network, name, ifname).promised
    if promised is None:
        return  # it was taken away this moment
    text = resolvers.text_of(name)
    files.put(number, document(files.pool, number, promised, text, builder.slot), state)

"""Learn what this kernel offers, and say what it means when it refuses."""

import errno
from collections.abc import Mapping

from cni_faasm.attachment import rehearsed
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.ipam import reclaim
from cni_faasm.limits.shaping import CUTTER
from cni_faasm.limits.shaping_scope import Scope
from cni_faasm.link import features, netns
from cni_faasm.netlink import tc, tc_filter
from cni_faasm.netlink.lacking import is_lacking
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec.errors import (
    INTERFACE_EXISTS,
    IO_FAILURE,
    KERNEL_REFUSED,
    TRY_AGAIN,
    CniError,
)

LOOPBACK_IFINDEX = 1
FQ_CODEL = "fq_codel"
BFIFO = "bfifo"
QUEUES = (*(CUTTER + kind for kind in (FQ_CODEL, BFIFO)), FQ_CODEL, BFIFO)

_REMEDIES = {
    errno.EPERM: "run the plugin as root with CAP_NET_ADMIN over the host's namespace",
    errno.EACCES: "run the plugin as root; look for a security module that forbids it",
    errno.ENOBUFS: "the kernel is out of memory for network objects",
    errno.ENOMEM: "the kernel is out of memory",
    errno.ENETUNREACH: "a route's gateway must be on the container's link: leave gw out",
    errno.EINVAL: "the kernel does not accept a value of the configuration",
    errno.ETIMEDOUT: "the kernel did not answer; call again",
    errno.EAGAIN: "the kernel did not answer in time; call again",
}


def refusal(error: NetlinkError, config: NetworkConfig | None = None) -> CniError:
    """Turn the kernel's refusal into the error that the runtime gets.

    config: what was being done; without it the whole of what any network needs is looked at.
    """
    number = error.errno
    text = str(error)
    if config is not None:
        rehearsed.forget(config)
    lack = _lack(error, config)
    if lack is not None:
        lack.details += f"; the kernel said: {text}"
        return lack
    if number == errno.EEXIST and error.label.startswith("ip link add"):
        return CniError(
            INTERFACE_EXISTS,
            f"an interface of that name exists: {text}",
            "DEL the attachment that made it, or choose another hostInterfacePrefix",
        )
    if number in (errno.EMFILE, errno.ENFILE):
        return CniError(IO_FAILURE, text, "raise the limit of open files")
    if number in (errno.EBUSY, errno.EINTR):
        return CniError(TRY_AGAIN, text, "the kernel is busy with these objects; call again")
    return CniError(KERNEL_REFUSED, f"the kernel refused: {text}", _REMEDIES.get(number, ""))


def _lack(error: NetlinkError, config: NetworkConfig | None) -> CniError | None:
    """Return what the kernel lacks, if that is why it refused."""
    if not is_lacking(error):
        return None
    try:
        if config is None:
            found = features.missing()
        else:
            keys = features.keys_of(config)
            found = features.missing(keys, makes_pairs=not config.shapes_only)
    except (CniError, NetlinkError):  # it cannot be found out
        return None
    return features.lacking(found) if found else None


def queue(
    state_dir: str,
    network: str,
    boot_id: str,
    marker: Mapping[str, object] | None,
) -> str:
    """Return the best queue this kernel has, asking it once per boot and network.

    It is one of QUEUES.

    marker: the boot marker as it was read, where the answer is kept: asking for a qdisc
    that a modular kernel lacks makes it run modprobe.
    """
    kept = _remembered(marker, boot_id, "queue")
    if kept in QUEUES:
        return str(kept)
    found = offered_queue()
    _remember(state_dir, network, boot_id, "queue", found)
    return found


def scope(config: NetworkConfig, boot_id: str, marker: Mapping[str, object] | None) -> Scope | None:
    """Return what the network's limits hold for; None for everything.

    The kernel is asked once per boot and network which classifier it has.
    Raises: NetlinkError when it has none that will do.
    """
    if not config.subnets:
        return None
    found = _remembered(marker, boot_id, "classifier")
    if found not in (tc_filter.U32, tc_filter.FLOWER):
        found = _offered_classifier()
        _remember(config.state_dir, config.name, boot_id, "classifier", found)
    return Scope(config.subnets, only=config.subnets_only, classifier=str(found))


def _remembered(marker: Mapping[str, object] | None, boot_id: str, key: str) -> object:
    known = marker.get("kernel") if marker and marker.get("bootID") == boot_id else None
    return known.get(key) if isinstance(known, dict) else None


def _remember(state_dir: str, network: str, boot_id: str, key: str, value: str) -> None:
    if not boot_id:  # STATUS, which asks anew each time
        return
    fresh = dict(reclaim.read_marker(state_dir, network) or {})
    if fresh.get("bootID") != boot_id:  # where faasm only shapes, nobody else writes it
        fresh = {"bootID": boot_id}
    known = fresh.get("kernel")
    fresh["kernel"] = {**(known if isinstance(known, dict) else {}), key: value}
    reclaim.write_marker(state_dir, network, fresh)


def _offered_classifier() -> str:
    """Try the classifiers on the loopback of a namespace of its own."""
    one = tc_filter.Filter(bytes(4), 0, 0x10000, by_source=False)
    u32, flower = (
        tc_filter.new_filter(LOOPBACK_IFINDEX, 0x10000, kind, one)
        for kind in (tc_filter.U32, tc_filter.FLOWER)
    )
    with netns.Empty(), Netlink() as scratch:
        scratch.execute([tc.new_qdisc_htb(LOOPBACK_IFINDEX, 0x10000, 0)])
        if not isinstance(scratch.execute_tolerant([u32])[0], NetlinkError):
            return tc_filter.U32
        scratch.execute([flower])
        return tc_filter.FLOWER


def offered_queue() -> str:
    """Try queues on the loopback of a namespace of its own, which vanishes at once.

    Raises: CniError 5 when no namespace can be made.
    """
    place = (LOOPBACK_IFINDEX, tc.TC_H_ROOT)
    cutter = tc.new_qdisc_tbf(*place, 0x10000, rate_Bps=1 << 60, max_bytes=1 << 20, limit_bytes=1)
    fair = tc.new_qdisc_fq_codel(*place, 0x20000, replace=True)
    with netns.Empty(), Netlink() as scratch:
        cuts, is_fair = (
            not isinstance(scratch.execute_tolerant([one])[0], NetlinkError)
            for one in (cutter, fair)
        )
    return (CUTTER if cuts else "") + (FQ_CODEL if is_fair else BFIFO)

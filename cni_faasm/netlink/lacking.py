"""Say of a refusal whether it can mean that the kernel does not know the thing at all."""

import errno

from cni_faasm.netlink.wire import NetlinkError

_ALWAYS = (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT)
# With ENOENT: of kinds of qdiscs, filters and actions.
_UNKNOWN = ("kind is unknown", "TC classifier not found", "Failed to load TC action module")


def is_lacking(error: NetlinkError) -> bool:
    """Say so; which thing it is, features.missing finds out."""
    number, label = error.errno, error.label
    if number in _ALWAYS:
        return True
    if number == errno.EINVAL:
        # What nfnetlink says to a request for a subsystem that nobody has registered.
        return label.startswith(("nft list", "nft get"))
    if number != errno.ENOENT:
        return False
    # All that chains and rules of ours refer to is made in the same transaction; but those
    # of iptables are others', and may be gone.
    families = ("inet", "arp", "bridge")
    if label.startswith(("nft create", *(f"nft add rule {one}" for one in families))):
        return True
    return any(word in error.ext_ack for word in _UNKNOWN)


class IfNftables:
    """Run a block that a kernel without nf_tables leaves at once: it has none of our rules.

    needed: whether it must not, because rules are to be made.
    """

    __slots__ = ("_needed",)

    def __init__(self, *, needed: bool = False) -> None:
        self._needed = needed

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> bool:
        return not self._needed and isinstance(error, NetlinkError) and is_lacking(error)

"""Encode the question which sockets of a kind there are (<linux/sock_diag.h>, <linux/inet_diag.h>).

The body of a question is struct inet_diag_req_v2, that of an answer begins with struct inet_diag_msg.
"""

from struct import Struct

from cni_faasm.netlink.wire import Message, fixed

NETLINK_SOCK_DIAG = 4  # <linux/netlink.h>
SOCK_DIAG_BY_FAMILY = 20
# <net/tcp_states.h>. UDP has the second where a socket has no peer.
TCP_CLOSE, TCP_LISTEN = 7, 10
# Family, protocol, extensions, states by their bits; then whose, 0 for everybody's.
_REQUEST = Struct("=BBBxI48x")
_ANSWER = Struct(">4xH66x")  # the port, of the host's end


def dump_sockets(family: int, protocol: int, state: int) -> Message:
    """Ask for the sockets of a family and protocol that are in a state.

    Equivalent to: ss -n -a state STATE
    """
    body = _REQUEST.pack(family, protocol, 0, 1 << state)
    return SOCK_DIAG_BY_FAMILY, 0, body, "ss -l"


def parse_port(body: bytes) -> int:
    """Return the port that a socket has taken. Raises: NetlinkError when it is malformed."""
    [port] = fixed(_ANSWER, body, "inet_diag_msg")
    return int(port)

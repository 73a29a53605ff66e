"""Call the plugin as runtimes do, so that the seed notices what calls write to (order.c).

Run by seed.c after all that the snapshot holds, with FOLDER as the place for files. The kernel is
played: what is made is kept as it was asked for, and told again. So this needs no privilege, changes
nothing, and is the same on every machine.
"""

import os
import struct

from cni_faasm import calls as counts
from cni_faasm import serve as edge
from cni_faasm.link import netns
from cni_faasm.netlink import sock_diag, transport, wire
from cni_faasm.spec import jsonio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FOLDER: str = globals()["FOLDER"]
CONTAINER = f"{FOLDER}/container"
TIMES = 2  # the first call of a network makes what later ones find
PORTS = [{"hostPort": 8000 + one, "containerPort": 80, "protocol": "tcp"} for one in range(9)]
FAILED = "{}: this played kernel does not do what the plugin asks for: {}"

# <linux/rtnetlink.h>: four types to an object, from this one on
RTM_BASE = 16
NEW, DEL, GET, SET = range(4)
LINK, ADDRESS, ROUTE, _, _, QDISC = range(6)
# <linux/netfilter/nf_tables.h>: three to an object
NFT = 0x0A00
CHAIN, CHAIN_NAME = 1, 3
ENODEV, ENOENT, ENETUNREACH = 19, 2, 101
# <linux/if_link.h>
IFLA_ADDRESS, IFLA_IFNAME, IFLA_LINK, IFLA_OPERSTATE, IFLA_LINKINFO = 1, 3, 5, 16, 18
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
UP_AND_RUNNING = 0x11043
IFINFOMSG = struct.Struct("=BBHiII")
RTN_LOCAL = 2
IFA_F_PERMANENT = 0x80


class Namespace:
    """Links by index, and the bodies of other objects by their kind."""

    def __init__(self) -> None:
        self.links = {1: {IFLA_IFNAME: b"lo\0"}}
        self.others: dict[int, list[bytes]] = {}


HOST, INNER = Namespace(), Namespace()
inside = [HOST]


class Socket:
    """Stand for a netlink socket in the namespace of the moment."""

    def __init__(self, _family: int, _kind: int, protocol: int) -> None:
        self.space = inside[0]
        self.is_netfilter = protocol == transport.NETLINK_NETFILTER
        self.knows_nothing = protocol == sock_diag.NETLINK_SOCK_DIAG
        self.answers: list[bytes] = []

    def setsockopt(self, *_: object) -> None:
        pass

    bind = close = setsockopt

    def getsockname(self) -> tuple[int, int]:
        return (1, 0)

    def fileno(self) -> int:
        return -1

    def recv_into(self, *_: object) -> int:
        if not self.answers:
            raise BlockingIOError(11, "nothing is left")
        return len(self.answers[0])

    def recvmsg(self, *_: object) -> "tuple[bytes, list[Any], int, tuple[int, int]]":
        return self.answers.pop(0), [], 0, (0, 0)

    def tell(self, kind: int, flags: int, sequence: int, body: bytes) -> None:
        whole = wire.HEADER.pack(16 + len(body), kind, flags, sequence, 1) + body
        self.answers.append(whole + bytes(-len(whole) % 4))

    def sendto(self, data: bytes, _: object) -> None:
        for kind, flags, sequence, _port, body in wire.split(data):
            if self.is_netfilter and kind < NFT:
                continue  # the limits of a transaction
            if self.knows_nothing:
                self.tell(wire.NLMSG_DONE, 2, sequence, bytes(4))
                continue
            error, found = (
                self.nft(kind - NFT, flags, body)
                if kind >= NFT
                else self.route(kind - RTM_BASE, flags, body)
            )
            for one in found:
                self.tell(kind & ~3 if kind < NFT else kind, 2, sequence, one)
            if flags & wire.NLM_F_DUMP == wire.NLM_F_DUMP and (kind % 4 == 2 or kind >= NFT):
                self.tell(wire.NLMSG_DONE, 2, sequence, bytes(4))
            elif error or flags & wire.NLM_F_ACK:
                self.tell(
                    wire.NLMSG_ERROR,
                    wire.NLM_F_CAPPED,
                    sequence,
                    struct.pack("=i", -error) + bytes(16),
                )

    def nft(self, kind: int, flags: int, body: bytes) -> tuple[int, list[bytes]]:
        what, act = divmod(kind, 3)
        kept = self.space.others.setdefault(NFT + what, [])
        table = body[0], wire.parse_attrs(body, 4).get(1)
        alike = [one for one in kept if (one[0], wire.parse_attrs(one, 4).get(1)) == table]
        if act == 0:
            kept.append(body)
        elif act == 1:
            if flags & wire.NLM_F_DUMP == wire.NLM_F_DUMP:
                return 0, alike
            if what == CHAIN:
                name = wire.parse_attrs(body, 4)[CHAIN_NAME]
                alike = [one for one in alike if wire.parse_attrs(one, 4)[CHAIN_NAME] == name]
            return (0, alike[-1:]) if alike else (ENOENT, [])
        return 0, []

    def route(self, kind: int, flags: int, body: bytes) -> tuple[int, list[bytes]]:
        what, act = divmod(kind, 4)
        is_dump = flags & wire.NLM_F_DUMP == wire.NLM_F_DUMP and act == GET
        if what == LINK:
            return self.link(act, flags, body, is_dump=is_dump)
        kept = self.space.others.setdefault(what, [])
        if is_dump:
            return 0, [one for one in kept if what < 4 or one[4:8] == body[4:8]]
        if act == NEW:
            permanent = what == ADDRESS
            kept.append(
                body[:2] + bytes([body[2] | IFA_F_PERMANENT]) + body[3:] if permanent else body
            )
        elif act == GET and what == QDISC:
            place = slice(4, 8), slice(12, 16)  # interface and parent
            return 0, [one for one in kept if all(one[at] == body[at] for at in place)][-1:]
        elif act == GET and what == ROUTE:
            wanted = wire.parse_attrs(body, 12).get(1)
            addresses = self.space.others.get(ADDRESS, [])
            if all(wire.parse_attrs(one, 8).get(1) != wanted for one in addresses):
                return ENETUNREACH, []
            return 0, [body[:7] + bytes([RTN_LOCAL]) + body[8:]]
        return 0, []

    def link(self, act: int, flags: int, body: bytes, *, is_dump: bool) -> tuple[int, list[bytes]]:
        links = self.space.links
        if is_dump:
            return 0, [told(index, attrs) for index, attrs in links.items()]
        index = IFINFOMSG.unpack_from(body)[3]
        attrs = wire.parse_attrs(body, IFINFOMSG.size)
        name = attrs.get(IFLA_IFNAME)
        if not index and act != NEW:
            index = next((one for one, has in links.items() if has[IFLA_IFNAME] == name), 0)
        if act == NEW and flags & wire.NLM_F_CREATE:
            made = make_pair(self.space, attrs)
            return 0, [told(made, links[made])] if flags & wire.NLM_F_ECHO else []
        if index not in links:
            return ENODEV, []
        if act == DEL:
            del links[index]
            INNER.links.pop(index, None)
        elif act == GET:
            return 0, [told(index, links[index])]
        else:
            links[index].update(attrs)
        return 0, []


def make_pair(space: Namespace, attrs: dict[int, bytes]) -> int:
    """Make a veth pair. Returns: the index of the outer end."""
    information = wire.parse_attrs(attrs[IFLA_LINKINFO])
    peer = wire.parse_attrs(wire.parse_attrs(information[IFLA_INFO_DATA])[VETH_INFO_PEER], 16)
    index = 10 + len(space.links)
    up = {IFLA_OPERSTATE: bytes([6])}
    link = struct.pack("=I", index)
    space.links[index] = {**attrs, **up, IFLA_LINK: link}
    space.links[index][IFLA_IFNAME] = attrs[IFLA_IFNAME].replace(b"%d", b"0")
    kind = wire.attr(IFLA_LINKINFO, wire.attr(IFLA_INFO_KIND, b"veth\0"))[4:]
    INNER.links[index] = {**peer, **up, IFLA_LINK: link, IFLA_LINKINFO: kind}
    return index


def told(index: int, attrs: dict[int, bytes]) -> bytes:
    """Return what the kernel tells of a link."""
    head = IFINFOMSG.pack(0, 0, 1, index, UP_AND_RUNNING, 0)
    return head + b"".join(wire.attr(kind, value) for kind, value in attrs.items())


FILES = {
    "boot_id": "01234567-89ab-cdef-0123-456789abcdef\n",
    "ip_forward": "1\n",
    "forwarding": "1\n",
}
_open, _stat, _listdir = os.open, os.stat, os.listdir


def _there(path: "Any") -> "Any":
    """Return what stands for a file of this machine's."""
    if not isinstance(path, str) or path.startswith(FOLDER) or not path.startswith("/"):
        return path
    name = path.rpartition("/")[2]
    return f"{FOLDER}/{name}" if name in FILES else "/dev/null"


def _setns(fd: int) -> None:
    inside[0] = INNER if os.fstat(fd).st_ino == _stat(CONTAINER).st_ino else HOST


def _unshare() -> None:
    inside[0] = Namespace()


def play() -> None:
    """Put the played kernel in the place of this machine's."""
    for name, text in {**FILES, "container": ""}.items():
        fd = os.open(f"{FOLDER}/{name}", os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(fd, text.encode())
        os.close(fd)
    transport.socket = Socket  # type: ignore[attr-defined,assignment]
    netns.ioctl = lambda *_: netns.CLONE_NEWNET  # type: ignore[attr-defined,assignment]
    netns.setns = _setns
    netns.unshare = _unshare
    os.open = lambda path, *rest, **keys: _open(_there(path), *rest, **keys)
    os.stat = lambda path, **keys: _stat(_there(path), **keys)
    os.listdir = lambda path: [] if str(path).startswith("/proc") else _listdir(path)  # type: ignore[assignment]
    os.fork = lambda: 1 << 22


def call(verb: str, document: dict[str, object]) -> dict[str, object]:
    """Call the plugin. Returns: its answer; {} for none."""
    ends = os.pipe(), os.pipe()
    os.write(ends[0][1], jsonio.dumps(document))
    os.close(ends[0][1])
    nobody = _open("/dev/null", os.O_WRONLY)
    environ = {
        b"CNI_COMMAND": verb.encode(),
        b"CNI_CONTAINERID": b"0123456789abcdef",
        b"CNI_NETNS": CONTAINER.encode(),
        b"CNI_IFNAME": b"eth0",
        b"CNI_PATH": b"/opt/cni/bin",
        b"CNI_ARGS": b"IgnoreUnknown=1;K8S_POD_NAME=pod",
        b"PATH": b"/usr/sbin:/usr/bin",
    }
    status = edge.serve(edge.cni_variables(environ), ends[0][0], ends[1][1], nobody)
    counts.add(verb, status, 0)  # to /dev/null, as all paths of this machine
    os.close(ends[1][1])
    text = os.read(ends[1][0], 1 << 16)
    for fd in (ends[0][0], ends[1][0], nobody):
        os.close(fd)
    if status and verb != "CHECK":
        raise SystemExit(FAILED.format(verb, text.decode()))
    return jsonio.loads(text) if text else {}  # type: ignore[return-value]


def main() -> None:
    play()
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    both = [[{"subnet": "10.200.0.0/16"}], [{"subnet": "fd00:200::/64"}]]
    limits = {"ingressRate": "10M", "egressRate": 20_000_000}
    for i, ranges in enumerate((both[:1], both)):
        ipam = {
            "type": "host-local",
            "ranges": ranges,
            "routes": routes[: len(ranges)],
            "dataDir": f"{FOLDER}/data",
        }
        document: dict[str, object] = {
            "cniVersion": "1.0.0",
            "name": f"net{i}",
            "type": "faasm",
            "stateDir": f"{FOLDER}/state",
            "ipMasq": True,
            "bandwidth": limits,
            "ipam": ipam,
        }
        for runtime in ({}, {"portMappings": PORTS}):
            for _ in range(TIMES):
                document["runtimeConfig"] = runtime
                result = call("ADD", document)
                call("CHECK", {**document, "prevResult": result})
                call("DEL", {**document, "prevResult": result})
    call("VERSION", {"cniVersion": "1.0.0"})


main()

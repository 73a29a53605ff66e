"""Report drifts as they appear and go, told by the kernel.

One socket hears of every namespace that the host knows by a number, which are those of all
containers with a pair to here; the number comes with each event. pyroute2 reads the
events. They say only that something changed, so the attachments concerned are looked at
again, and what they say is compared with what they said before. Leases and new
attachments are files, of which no event tells: records are listed every second, and all
attachments looked at every half minute.
"""

import select
import socket
import struct
import time
from collections.abc import Callable, Sequence

import typer
from pyroute2.netlink import rtnl  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl.marshal import MarshalRtnl  # type: ignore[import-untyped]

from cni_faasm.cli import looks, output
from cni_faasm.cli.attachments import Attachment, Drift
from cni_faasm.cli.check.looking import document
from cni_faasm.cli.fault import ToolError
from cni_faasm.link import veth
from cni_faasm.netlink.transport import Netlink
from cni_faasm.rules import nat
from cni_faasm.spec import inet

GROUPS: int = (
    rtnl.RTMGRP_LINK
    | rtnl.RTMGRP_TC
    | rtnl.RTMGRP_IPV4_IFADDR
    | rtnl.RTMGRP_IPV4_ROUTE
    | rtnl.RTMGRP_IPV6_IFADDR
    | rtnl.RTMGRP_IPV6_ROUTE
    | 1 << rtnl.RTNLGRP_IPV4_NETCONF - 1
    | 1 << rtnl.RTNLGRP_IPV6_NETCONF - 1
)
# <linux/netlink.h>, <linux/nfnetlink.h>
NETLINK_NETFILTER = 12
NETLINK_LISTEN_ALL_NSID = 8
NFNLGRP_NFTABLES = 1 << 7 - 1
SOL_NETLINK = 270
RECEIVE_BYTES = 1 << 20

LIST_S = 1.0
LOOK_AT_ALL_S = 30.0
# A change comes as several events, and an ADD or DEL must not be caught in its middle.
GATHER_S = 0.05
SETTLE_S = 0.15
HOST = -1


class Events:
    """Two sockets that hear what changes, and what of it concerns whom."""

    def __init__(self) -> None:
        self._rtnl = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._rtnl.setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1)
        self._rtnl.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._rtnl.bind((0, GROUPS))
        self._nft = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self._nft.bind((0, NFNLGRP_NFTABLES))
        self._marshal = MarshalRtnl()
        for one in (self._rtnl, self._nft):
            one.setblocking(False)

    def close(self) -> None:
        self._rtnl.close()
        self._nft.close()

    def wait(self, timeout: float) -> tuple[set[tuple[int, int]], set[str], set[str], bool]:
        """Wait for events, then a moment for those that come with them.

        Returns: (namespace number or HOST, interface index) of what changed, addresses to
        which a route changed, names of nft tables, and whether all must be looked at.
        """
        places: set[tuple[int, int]] = set()
        routed: set[str] = set()
        tables: set[str] = set()
        lost = False
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([self._rtnl, self._nft], [], [], left)
            if ready:
                deadline = min(deadline, time.monotonic() + GATHER_S)
            try:
                if self._rtnl in ready:
                    lost |= self._read_rtnl(places, routed)
                if self._nft in ready:
                    tables |= _nft_tables(self._nft.recv(RECEIVE_BYTES))
            except BlockingIOError:
                continue
            except OSError:  # ENOBUFS: there was more than the buffer holds
                lost = True
        return places, routed, tables, lost

    def _read_rtnl(self, places: set[tuple[int, int]], routed: set[str]) -> bool:
        data, ancillary, _, _ = self._rtnl.recvmsg(RECEIVE_BYTES, socket.CMSG_SPACE(4))
        where = HOST
        for level, kind, value in ancillary:
            if (level, kind) == (SOL_NETLINK, NETLINK_LISTEN_ALL_NSID):
                (where,) = struct.unpack("=i", value)
        for message in self._marshal.parse(data):
            event = str(message.get("event", ""))
            if "NETCONF" in event:
                return True
            index = message.get("index") or message.get("ifindex") or message.get_attr("RTA_OIF")
            places.add((where, index or 0))
            if "ROUTE" in event and where == HOST and message.get_attr("RTA_DST"):
                routed.add(str(message.get_attr("RTA_DST")))
        return False


def _nft_tables(data: bytes) -> set[str]:
    """Return the names of the tables that events are about: the first attribute of each."""
    names = set()
    at = 0
    while at + 20 <= len(data):
        (length,) = struct.unpack_from("=I", data, at)
        if length < 20:
            break
        size, kind = struct.unpack_from("=HH", data, at + 20) if length >= 24 else (0, 0)
        if kind & 0x3FFF == 1:
            names.add(data[at + 24 : at + 20 + size].rstrip(b"\0").decode("utf-8", "replace"))
        at += length + -length % 4
    return names


class Watch:
    """What is known of each attachment, and what to tell when it changes."""

    def __init__(self, known: Callable[[], list[Attachment]], tell: Callable[..., None]) -> None:
        self._known = known
        self._tell = tell
        self._host = Netlink()
        self._attachments: dict[str, Attachment] = {}
        self._drifts: dict[str, list[Drift]] = {}
        self._numbers: dict[str, int] = {}

    def close(self) -> None:
        self._host.close()

    def relist(self) -> list[str]:
        """List the records again; return the titles of those that are new or changed."""
        try:
            now = {one.title: one for one in self._known()}
        except ToolError:
            now = {}  # the one container that is watched has gone
        changed = [
            title
            for title, one in now.items()
            if title not in self._attachments or self._attachments[title].fields != one.fields
        ]
        for title in self._attachments.keys() - now.keys():
            self._tell("detached", self._attachments[title])
            for memory in (self._drifts, self._numbers):
                memory.pop(title, None)
        for title in changed:
            if title not in self._attachments:
                self._tell("attached", now[title])
            self._numbers[title] = self._number(now[title])
        self._attachments = now
        return changed

    def _number(self, one: Attachment) -> int:
        """Return the number by which the host knows the attachment's namespace."""
        outer = veth.find_outer(self._host, one.promised) if one.promised else None
        number = None if outer is None else outer.link_netnsid
        return HOST - 1 if number is None else number

    def concerned(
        self, places: set[tuple[int, int]], routed: set[str], tables: set[str]
    ) -> Sequence[str]:
        """Return the titles of the attachments that events are about."""
        found = []
        for title, one in self._attachments.items():
            promised = one.promised
            if promised is None:
                continue
            number = self._numbers.get(title, HOST - 1)
            if (
                (HOST, promised.host_ifindex) in places
                or any(where == number for where, _ in places)
                or any(inet.unpack(item.address) in routed for item in promised.addresses)
                or nat.table_name(one.network) in tables
                or "filter" in tables
            ):
                found.append(title)
        return found

    def everyone(self) -> list[str]:
        return [*self._attachments]

    def look(self, titles: Sequence[str]) -> None:
        """Look at attachments again, twice where something is new, and tell the changes."""
        fresh = {title: self._look(title) for title in titles if title in self._attachments}
        if any(fresh[title] != self._drifts.get(title, []) for title in fresh):
            time.sleep(SETTLE_S)
            self.relist()
            fresh = {title: self._look(title) for title in fresh if title in self._attachments}
        for title, found in fresh.items():
            one, before = self._attachments[title], self._drifts.get(title, [])
            for drift in before:
                if drift not in found and drift[0] not in {other[0] for other in found}:
                    self._tell("mended", one, drift)
            for drift in found:
                if drift not in before:
                    self._tell("drift", one, drift)
            self._drifts[title] = found

    def _look(self, title: str) -> list[Drift]:
        return looks.look(self._attachments[title], self._host)


def run(known: Callable[[], list[Attachment]], as_json: bool) -> None:
    """Watch until Ctrl-C."""

    def tell(event: str, one: Attachment, drift: Drift | None = None) -> None:
        if as_json:
            base = {"timeUnixSeconds": round(time.time(), 3), "event": event}
            output.print_line(base | (one.identity() if drift is None else document(one, drift)))
            return
        text = "" if drift is None else f": {drift[0]}: expected {drift[1]}, found {drift[2]}"
        if event == "mended" and drift is not None:
            text = f": {drift[0]}: {drift[1]} again"
        typer.echo(f"{output.clock()} {event:<8} {one.called}{text}")

    events = Events()
    quiet = {"attached"}
    watch = Watch(known, lambda event, *rest: None if event in quiet else tell(event, *rest))
    try:
        watch.relist()
        quiet.clear()
        watch.look(watch.everyone())
        output.note(f"watching {output.count(len(watch.everyone()), 'attachment')}; Ctrl-C ends it")
        next_full = time.monotonic() + LOOK_AT_ALL_S
        while True:
            places, routed, tables, lost = events.wait(LIST_S)
            fresh = watch.relist()
            if lost or time.monotonic() > next_full:
                watch.look(watch.everyone())
                next_full = time.monotonic() + LOOK_AT_ALL_S
            else:
                concerned = watch.concerned(places, routed, tables)
                watch.look(list(dict.fromkeys((*fresh, *concerned))))
    except KeyboardInterrupt:
        return
    finally:
        watch.close()
        events.close()

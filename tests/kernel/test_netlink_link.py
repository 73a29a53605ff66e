"""Links, addresses, routes and neighbours made on the real kernel and read back by others."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute  # type: ignore[import-untyped]

from cni_faasm.netlink import addr, link, neigh, route
from cni_faasm.netlink.transport import Netlink, NetlinkError
from cni_faasm.spec import inet
from tests.host import Host, Namespace
from tests.kernels import OWN_GSO_OF_PEERS, SIZES_OF_GRO, kernel_version, make_link

MAC = b"\x02\0\0\0\0\x01"
PEER_MAC = b"\x02\0\0\0\0\x02"
EEXIST, ENOENT, ESRCH, ENODEV, ENETUNREACH, EADDRNOTAVAIL = 17, 2, 3, 19, 101, 99


@pytest.fixture
def inside(bare_host: Host) -> Namespace:
    return bare_host.add_container()


@pytest.fixture
def inner(inside: Namespace) -> Iterator[Netlink]:
    with inside.entered():
        netlink = Netlink()
    yield netlink
    netlink.close()


@pytest.fixture
def pair(rt: Netlink, inside: Namespace) -> link.Link:
    with Path(inside.path).open("rb") as namespace:
        return make_link(rt, link.new_veth("faasm%d", "eth0", namespace.fileno()), "faasm0")


def pyroute2(namespace: Namespace, method: str, **filters: Any) -> list[Any]:
    with namespace.entered(), IPRoute() as other:
        return list(getattr(other, method)(**filters))


def test_a_pair_with_everything(bare_host: Host, inside: Namespace, rt: Netlink) -> None:
    with Path(inside.path).open("rb") as namespace:
        message = link.new_veth(
            "faasm%d",
            "eth0",
            namespace.fileno(),
            mtu=1400,
            address=MAC,
            peer_address=PEER_MAC,
            group=7,
            peer_group=8,
            txqlen=500,
            gso_max_size=2000,
            gro_max_size=3000,
            peer_gso_max_size=4000,
            peer_gro_max_size=5000,
            up=True,
        )
        made = make_link(rt, message, "faasm0")
    outer, peer = bare_host.link("faasm0"), inside.link("eth0")
    assert outer is not None
    assert peer is not None
    assert (made.name, made.ifindex, made.link) == ("faasm0", outer["ifindex"], peer["ifindex"])
    assert (made.address, made.mtu, made.group, made.kind) == (MAC, 1400, 7, "veth")
    peer_gso = 4000 if kernel_version() >= OWN_GSO_OF_PEERS else 2000
    has_gro = kernel_version() >= SIZES_OF_GRO
    assert (made.gso_max_size, made.txqlen) == (2000, 500)
    assert made.gro_max_size == (3000 if has_gro else 0)
    assert (made.num_tx_queues, made.num_rx_queues, made.is_up) == (1, 1, True)
    for end, mac, group, gso, gro in (
        (outer, "02:00:00:00:00:01", "7", 2000, 3000),
        (peer, "02:00:00:00:00:02", "8", peer_gso, 5000),
    ):
        assert (end["address"], end["mtu"], end["txqlen"]) == (mac, 1400, 500)
        assert (end["group"], end["linkinfo"]["info_kind"]) == (group, "veth")
        assert (end["gso_max_size"], end.get("gro_max_size")) == (gso, gro if has_gro else None)
        assert (end["num_tx_queues"], end["num_rx_queues"]) == (1, 1)
    assert "UP" in outer["flags"]
    assert "UP" not in peer["flags"]
    # Sizes up to 64 KiB hold for IPv4 too, though only those for all were sent.
    (seen,) = pyroute2(bare_host, "get_links", ifname="faasm0")
    assert seen.get_attr("IFLA_GSO_IPV4_MAX_SIZE") in {None, 2000}
    assert seen.get_attr("IFLA_GRO_IPV4_MAX_SIZE") in {None, 3000}


def test_the_kernel_takes_the_lowest_free_number(rt: Netlink) -> None:
    for peer, name in (("a", "faasm0"), ("b", "faasm1"), ("c", "faasm2")):
        make_link(rt, link.new_veth("faasm%d", peer, None), name)
    rt.execute([link.del_link(name="faasm1")])
    make_link(rt, link.new_veth("faasm%d", "d", None), "faasm1")


def test_a_taken_name_is_refused(rt: Netlink, pair: link.Link, inside: Namespace) -> None:
    with Path(inside.path).open("rb") as namespace:
        fd = namespace.fileno()
        results = rt.execute_tolerant(
            [
                link.new_veth("faasm%d", "eth0", fd),
                link.new_veth("faasm0", "eth1", fd),
                link.new_veth("x", "y", 9999),
            ]
        )
    errors = [one.errno for one in results if isinstance(one, NetlinkError)]
    assert errors[:2] == [EEXIST, EEXIST]
    assert len(errors) == 3
    assert str(results[0]).startswith("ip link add faasm%d type veth peer name eth0: File exists")


def test_a_link_is_changed(bare_host: Host, rt: Netlink, pair: link.Link) -> None:
    message = link.set_link(
        pair.ifindex,
        up=True,
        address=PEER_MAC,
        mtu=1300,
        alias="cni-faasm net id eth0",
        group=9,
        txqlen=77,
        gso_max_size=1700,
        gro_max_size=1800,
    )
    rt.execute([message])
    seen = bare_host.link("faasm0")
    assert seen is not None
    assert (seen["address"], seen["mtu"], seen["txqlen"]) == ("02:00:00:00:00:02", 1300, 77)
    assert (seen["ifalias"], seen["group"]) == ("cni-faasm net id eth0", "9")
    gro = 1800 if kernel_version() >= SIZES_OF_GRO else None
    assert (seen["gso_max_size"], seen.get("gro_max_size")) == (1700, gro)
    ((reply,),) = rt.execute([link.get_link(name="faasm0")])
    found = link.parse_link(reply)
    assert (found.alias, found.group, found.is_up) == ("cni-faasm net id eth0", 9, True)
    rt.execute([link.set_link(pair.ifindex, up=False, alias="")])
    rt.execute([link.set_link(pair.ifindex, name="other")])  # not while up, before Linux 6.2
    ((reply,),) = rt.execute([link.get_link(ifindex=pair.ifindex)])
    found = link.parse_link(reply)
    assert (found.alias, found.name, found.is_up, found.mtu) == ("", "other", False, 1300)


def test_a_name_of_any_bytes_is_read(bare_host: Host, rt: Netlink) -> None:
    name = b"\xff\xfe-\xc3".decode("utf-8", "surrogateescape")
    make_link(rt, link.new_veth(name, "b", None), name)


def test_a_link_moves_to_another_namespace(rt: Netlink, pair: link.Link, inside: Namespace) -> None:
    with Path(inside.path).open("rb") as namespace:
        rt.execute([link.set_link(pair.ifindex, netns_fd=namespace.fileno())])
    assert sorted(inside.links()) == ["eth0", "faasm0"]


def test_addr_gen_mode_counts_before_up(
    rt: Netlink, inner: Netlink, pair: link.Link, inside: Namespace
) -> None:
    mode = link.IN6_ADDR_GEN_MODE_NONE
    rt.execute([link.set_link(pair.ifindex, up=True)])
    inner.execute([link.set_link(pair.link, addr_gen_mode=mode), link.set_link(pair.link, up=True)])
    assert inside.addresses("eth0", scope=None) == []
    seen = inside.link("eth0")
    assert seen is not None
    assert seen["inet6_addr_gen_mode"] == "none"


def test_links_are_listed_by_kind(bare_host: Host, rt: Netlink, pair: link.Link) -> None:
    rt.execute([link.new_veth("a", "b", None)])
    listed = {link.parse_link(body).name for body in rt.dump(link.dump_links(kind="veth"))}
    assert listed == {"faasm0", "a", "b"}
    everything = {link.parse_link(body).name for body in rt.dump(link.dump_links())}
    assert everything == set(bare_host.links()) | {"lo"}


def test_counters_come_when_asked_for(bare_host: Host, rt: Netlink) -> None:
    with bare_host.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"counted", ("127.0.0.1", 9))
    ((reply,),) = rt.execute([link.get_link(name="lo", stats=True)])
    found = link.parse_link(reply)
    (seen,) = pyroute2(bare_host, "get_links", ifname="lo")
    stats = seen.get_attr("IFLA_STATS64")
    assert found.rx_packets == stats["rx_packets"] > 0
    assert found.tx_bytes == stats["tx_bytes"] > 0
    assert (found.tx_packets, found.rx_bytes) == (stats["tx_packets"], stats["rx_bytes"])


def test_deleting_one_and_a_group(bare_host: Host, rt: Netlink, pair: link.Link) -> None:
    rt.execute([link.new_veth(f"g{n}", f"p{n}", None, group=42) for n in range(3)])
    rt.execute([link.del_link(group=42)])
    assert bare_host.links() == ["faasm0"]
    rt.execute([link.del_link(ifindex=pair.ifindex)])
    assert bare_host.links() == []
    results = rt.execute_tolerant(
        [
            link.del_link(ifindex=pair.ifindex),
            link.del_link(name="faasm0"),
            link.get_link(name="faasm0"),
            link.set_link(pair.ifindex, up=True),
        ]
    )
    assert [one.errno for one in results if isinstance(one, NetlinkError)] == [ENODEV] * 4


@pytest.mark.parametrize(("text", "prefix_len"), [("10.200.0.2", 32), ("fd00:200::2", 128)])
def test_addresses(
    bare_host: Host, rt: Netlink, pair: link.Link, text: str, prefix_len: int
) -> None:
    packed = inet.pack(text)
    ifindex = pair.ifindex
    rt.execute([addr.new_addr(ifindex, packed, prefix_len, noprefixroute=True)])
    assert bare_host.addresses("faasm0") == [f"{text}/{prefix_len}"]
    (seen,) = pyroute2(bare_host, "get_addr", index=ifindex)
    assert seen.get_attr("IFA_ADDRESS") == text
    (found,) = [addr.parse_addr(body) for body in rt.dump(addr.dump_addrs(ifindex))]
    assert (found.address, found.prefix_len, found.ifindex) == (packed, prefix_len, ifindex)
    assert found.flags & addr.IFA_F_NOPREFIXROUTE
    assert not found.flags & addr.IFA_F_TENTATIVE
    results = rt.execute_tolerant(
        [
            addr.new_addr(ifindex, packed, prefix_len),
            addr.new_addr(ifindex, packed, prefix_len, replace=True),
            addr.del_addr(ifindex, packed, prefix_len),
            addr.del_addr(ifindex, packed, prefix_len),
        ]
    )
    errors = [one.errno if isinstance(one, NetlinkError) else 0 for one in results]
    assert errors == [EEXIST, 0, 0, EADDRNOTAVAIL]
    assert bare_host.addresses("faasm0") == []


def test_an_ipv6_address_is_usable_at_once(
    bare_host: Host, rt: Netlink, inner: Netlink, pair: link.Link
) -> None:
    packed = inet.pack("fd00:200::1")
    inner.execute([link.set_link(pair.link, up=True)])
    rt.execute([link.set_link(pair.ifindex, up=True), addr.new_addr(pair.ifindex, packed, 128)])
    found = [addr.parse_addr(body) for body in rt.dump(addr.dump_addrs(pair.ifindex, 10))]
    (one,) = [one for one in found if one.address == packed]
    assert not one.flags & addr.IFA_F_TENTATIVE
    with bare_host.entered(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as user:
        user.bind(("fd00:200::1", 0))  # EADDRNOTAVAIL while it is tentative


def test_a_dump_of_one_interface_has_only_its_addresses(rt: Netlink, pair: link.Link) -> None:
    rt.execute([addr.new_addr(pair.ifindex, inet.pack("10.0.0.1"), 32)])
    found = [addr.parse_addr(body) for body in rt.dump(addr.dump_addrs(pair.ifindex))]
    assert [inet.unpack(one.address) for one in found] == ["10.0.0.1"]


@pytest.mark.parametrize(
    ("family", "own", "gateway", "net", "prefix_len"),
    [
        (4, "10.200.0.2", "10.200.0.1", "10.201.0.0", 16),
        (6, "fd00:200::2", "fd00:200::1", "fd00:201::", 64),
    ],
)
def test_routes(  # noqa: PLR0917 -- fixtures and parameters
    bare_host: Host,
    rt: Netlink,
    pair: link.Link,
    family: int,
    own: str,
    gateway: str,
    net: str,
    prefix_len: int,
) -> None:
    length = 32 if family == 4 else 128
    ifindex, via = pair.ifindex, inet.pack(gateway)
    rt.execute(
        [
            link.set_link(ifindex, up=True),
            addr.new_addr(ifindex, inet.pack(own), length, noprefixroute=True),
            route.new_route(via, length, ifindex),
            route.new_route(
                inet.pack(net), prefix_len, ifindex, gateway=via, mtu=1300, advmss=1200, priority=50
            ),
            route.new_route(bytes(length // 8), 0, ifindex, gateway=via, src=inet.pack(own)),
            route.new_route(via, length, ifindex, table=1000),
        ]
    )
    seen = {one["dst"]: one for one in bare_host.routes(family, dev="faasm0")}
    assert seen[gateway]["scope"] == ("link" if family == 4 else "global")
    assert seen[f"{net}/{prefix_len}"]["gateway"] == gateway
    assert seen[f"{net}/{prefix_len}"]["metric"] == 50
    assert seen[f"{net}/{prefix_len}"]["metrics"] == [{"mtu": 1300, "advmss": 1200}]
    assert seen["default"]["gateway"] == gateway
    assert seen["default"]["prefsrc"] == own

    number = 2 if family == 4 else 10
    found = [
        route.parse_route(body)
        for body in rt.dump(route.dump_routes(family=number, oif=ifindex, table=254))
    ]
    by_dst = {(one.dst, one.prefix_len): one for one in found}
    one = by_dst[inet.pack(net), prefix_len]
    assert (one.gateway, one.mtu, one.advmss, one.priority) == (via, 1300, 1200, 50)
    assert by_dst[bytes(length // 8), 0].src == inet.pack(own)
    assert by_dst[via, length].gateway is None
    (tabled,) = rt.dump(route.dump_routes(family=number, table=1000))
    assert route.parse_route(tabled).table == 1000
    others = {
        inet.cidr(one.dst, one.prefix_len)
        for one in map(route.parse_route, rt.dump(route.dump_routes(family=number, oif=1)))
        if one.table == 254
    }
    assert not others

    ((reply,),) = rt.execute([route.get_route(via)])
    exact = route.parse_route(reply)
    assert (exact.dst, exact.prefix_len, exact.oif) == (via, length, ifindex)
    ((reply,),) = rt.execute([route.get_route(inet.pack("1.1.1.1" if family == 4 else "2600::1"))])
    assert (route.parse_route(reply).prefix_len, route.parse_route(reply).gateway) == (0, via)

    wanted = (inet.pack(net), prefix_len, ifindex)
    results = rt.execute_tolerant(
        [
            route.new_route(*wanted, gateway=via, priority=50),
            route.new_route(*wanted, gateway=via, priority=50, mtu=1200, replace=True),
            route.del_route(*wanted, priority=50),
            route.del_route(*wanted, priority=50),
        ]
    )
    errors = [one.errno if isinstance(one, NetlinkError) else 0 for one in results]
    assert errors == [EEXIST, 0, 0, ESRCH]


def test_a_gateway_that_nothing_leads_to(bare_host: Host, rt: Netlink, pair: link.Link) -> None:
    net, via = inet.pack("10.9.0.0"), inet.pack("99.0.0.1")
    rt.execute([link.set_link(pair.ifindex, up=True)])
    (refused,) = rt.execute_tolerant([route.new_route(net, 16, pair.ifindex, gateway=via)])
    assert isinstance(refused, NetlinkError)
    assert refused.errno == ENETUNREACH
    rt.execute([route.new_route(net, 16, pair.ifindex, gateway=via, onlink=True)])
    (seen,) = bare_host.routes(dst="10.9.0.0/16")
    assert "onlink" in seen["flags"]
    ((reply,),) = rt.execute([route.get_route(inet.pack("10.9.1.2"))])
    found = route.parse_route(reply)
    assert (found.onlink, found.gateway, found.prefix_len) == (True, via, 16)


def test_the_first_hop_of_several(bare_host: Host, rt: Netlink, pair: link.Link) -> None:
    rt.execute([link.set_link(pair.ifindex, up=True)])
    hops = ["nexthop via 10.8.0.1 dev faasm0 onlink", "nexthop via 10.8.0.2 dev faasm0 onlink"]
    bare_host.run(["ip", "route", "add", "default", *" ".join(hops).split()])
    ((reply,),) = rt.execute([route.get_route(inet.pack("1.1.1.1"))])
    found = route.parse_route(reply)
    assert (found.oif, found.gateway) == (pair.ifindex, inet.pack("10.8.0.1"))


@pytest.mark.parametrize("text", ["10.200.0.1", "fd00:200::1"])
def test_neighbours(bare_host: Host, rt: Netlink, pair: link.Link, text: str) -> None:
    dst = inet.pack(text)
    rt.execute([link.set_link(pair.ifindex, up=True), neigh.new_neigh(pair.ifindex, dst, MAC)])
    (seen,) = bare_host.json("ip", "-j", "neigh", "show", "dev", "faasm0", "nud", "permanent")
    assert (seen["dst"], seen["lladdr"], seen["state"]) == (
        text,
        "02:00:00:00:00:01",
        ["PERMANENT"],
    )
    bodies = rt.dump(neigh.dump_neigh(pair.ifindex, inet.family(dst)))
    (found,) = [one for one in map(neigh.parse_neigh, bodies) if one.dst == dst]
    assert (found.ifindex, found.lladdr, found.state) == (pair.ifindex, MAC, neigh.NUD_PERMANENT)
    rt.execute([neigh.new_neigh(pair.ifindex, dst, PEER_MAC), neigh.del_neigh(pair.ifindex, dst)])
    (gone,) = rt.execute_tolerant([neigh.del_neigh(pair.ifindex, inet.pack("10.7.7.7"))])
    assert isinstance(gone, NetlinkError)
    assert gone.errno == ENOENT

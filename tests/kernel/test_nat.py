"""The network's nftables table and the FORWARD policy of iptables, with real packets."""

import socket
import threading
from typing import Any

import pytest

from tests.host import DUAL_STACK, Host, Namespace

REMOTE = {4: "198.51.100.1", 6: "2001:db8:100::1"}


def masqueraded(host: Host, **keys: Any) -> dict[str, Any]:
    return host.config(ipMasq=True, ipam=DUAL_STACK, **keys)


def peer_seen(client: Namespace, server: Namespace, address: str, port: int = 7000) -> str:
    """Connect from one namespace to an address of another; return whom the server sees."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with server.entered():
        listener = socket.create_server(("", port), family=family)
    listener.settimeout(3)
    try:
        with client.entered(), socket.create_connection((address, port), timeout=3):
            accepted, peer = listener.accept()
            accepted.close()
    finally:
        listener.close()
    return str(peer[0])


def rules(host: Host) -> list[str]:
    text = host.run(["nft", "list", "table", "inet", "faasm_testnet"]).stdout
    return [line.strip() for line in text.splitlines() if " return" in line or "masq" in line]


def test_masquerade_is_one_rule_set_for_all_containers(host: Host) -> None:
    remote = host.add_remote()
    config = masqueraded(host)
    containers = [host.add_container() for _ in range(3)]
    listed = []
    for container in containers:
        host.add(container, config)
        listed.append(rules(host))
    assert listed[0] == listed[1] == listed[2]
    assert listed[0] == [
        "ip daddr 10.200.0.0/16 return",
        "ip daddr 224.0.0.0/4 return",
        "ip saddr 10.200.0.0/16 masquerade",
        "ip6 daddr fd00:200::/64 return",
        "ip6 daddr ff00::/8 return",
        "ip6 saddr fd00:200::/64 masquerade",
    ]
    assert peer_seen(containers[0], remote, REMOTE[4]) == "198.51.100.2"
    assert peer_seen(containers[0], remote, REMOTE[6]) == "2001:db8:100::2"
    assert peer_seen(containers[0], containers[1], "10.200.0.3") == "10.200.0.2"
    assert peer_seen(containers[0], containers[1], "fd00:200::3") == "fd00:200::2"


def test_without_ip_masq_the_address_is_kept(host: Host) -> None:
    remote = host.add_remote()
    remote.run(["ip", "route", "add", "10.200.0.0/16", "via", "198.51.100.2"])
    container = host.add_container()
    host.add(container, host.config(antiSpoof=False))
    assert host.nft_tables() == []
    assert peer_seen(container, remote, REMOTE[4]) == "10.200.0.2"


@pytest.mark.parametrize(
    "harm",
    [
        "nft flush ruleset",
        "nft delete table inet faasm_testnet",
        "nft flush table inet faasm_testnet",
        "nft delete chain inet faasm_testnet postrouting",
    ],
)
def test_the_next_add_makes_the_rules_again(host: Host, harm: str) -> None:
    remote = host.add_remote()
    one, two = host.add_container(), host.add_container()
    host.add(one, masqueraded(host))
    before = rules(host)
    host.run(["nft", "flush", "chain", "inet", "faasm_testnet", "postrouting"])
    host.run(harm.split())
    host.add(two, masqueraded(host))
    assert rules(host) == before
    assert peer_seen(one, remote, REMOTE[4]) == "198.51.100.2"


def test_a_changed_range_is_added_and_the_old_one_kept(host: Host) -> None:
    remote = host.add_remote()
    old, new = host.add_container(), host.add_container()
    host.add(old, host.config(ipMasq=True))
    host.add(new, host.config(ipMasq=True, ipam={"subnet": "10.201.0.0/24"}))
    assert peer_seen(old, remote, REMOTE[4]) == "198.51.100.2"
    assert peer_seen(new, remote, REMOTE[4]) == "198.51.100.2"
    assert peer_seen(old, new, "10.201.0.2") == "10.200.0.2"


def test_more_ranges_than_a_comment_holds(host: Host) -> None:
    remote = host.add_remote()
    ranges = [[{"subnet": f"fd00:{number:x}:aaaa:bbbb::/64"}] for number in range(1, 9)]
    ipam = {"subnet": None, "ranges": ranges, "routes": [{"dst": "::/0"}]}
    config = host.config(ipMasq=True, ipam=ipam, antiSpoof=False)
    container = host.add_container()
    result = host.add(container, config)
    assert len(result["ips"]) == 8
    assert len(rules(host)) == 17
    before = host.nft()
    host.add(host.add_container(), config)
    assert host.nft() == before
    assert peer_seen(container, remote, REMOTE[6]) == "2001:db8:100::2"
    host.check(container, config, result).ok()


def test_parallel_first_adds_make_one_table(host: Host) -> None:
    containers = [host.add_container() for _ in range(8)]
    threads = [
        threading.Thread(target=host.add, args=(one, masqueraded(host))) for one in containers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rules(host)) == 6


# What `iptables-save` shows of FORWARD and its chains on a host with Docker and one bridge.
DOCKER = {
    "20": """\
:FORWARD DROP
:DOCKER -
:DOCKER-ISOLATION-STAGE-1 -
:DOCKER-ISOLATION-STAGE-2 -
:DOCKER-USER -
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
""",
    "28": """\
:FORWARD DROP
:DOCKER -
:DOCKER-BRIDGE -
:DOCKER-CT -
:DOCKER-FORWARD -
:DOCKER-ISOLATION-STAGE-1 -
:DOCKER-ISOLATION-STAGE-2 -
:DOCKER-USER -
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
""",
}


def start_docker(host: Host, version: str) -> None:
    for tool in ("iptables-restore", "ip6tables-restore"):
        host.run([tool, "--noflush"], stdin=f"*filter\n{DOCKER[version]}COMMIT\n")


@pytest.fixture
def docker_host(host: Host) -> Host:
    """A host whose FORWARD policy is drop, as Docker leaves it."""
    start_docker(host, "28")
    return host


@pytest.mark.parametrize("version", list(DOCKER))
def test_the_operators_own_chain_is_asked_first(host: Host, version: str) -> None:
    start_docker(host, version)
    remote = host.add_remote()
    container = host.add_container()
    host.add(container, masqueraded(host))
    assert peer_seen(container, remote, REMOTE[4]) == "198.51.100.2"
    for tool in ("iptables", "ip6tables"):
        host.run([tool, "-I", "DOCKER-USER", "-o", "uplink", "-p", "tcp", "-j", "DROP"])
    for address in REMOTE.values():
        with pytest.raises(OSError, match="timed out"):
            peer_seen(container, remote, address)


@pytest.mark.parametrize("version", list(DOCKER))
def test_docker_that_comes_later(host: Host, version: str) -> None:
    remote = host.add_remote()
    config = masqueraded(host)
    one, two = host.add_container(), host.add_container()
    result = host.add(one, config)
    start_docker(host, version)
    with pytest.raises(OSError, match="timed out"):
        peer_seen(one, remote, REMOTE[4])
    details = host.check(one, config, result).error(107)["details"]
    assert "forwarding: nft add rule ip filter FORWARD" in details
    host.add(two, config)
    host.check(one, config, result).ok()
    assert peer_seen(one, remote, REMOTE[4]) == "198.51.100.2"
    assert peer_seen(one, remote, REMOTE[6]) == "2001:db8:100::2"


def test_forwarding_where_the_policy_is_drop(docker_host: Host) -> None:
    host = docker_host
    remote = host.add_remote()
    remote.run(["ip", "route", "add", "10.200.0.0/16", "via", "198.51.100.2"])
    one, two = host.add_container(), host.add_container()
    result = host.add(one, masqueraded(host))
    host.add(two, masqueraded(host))
    assert peer_seen(one, remote, REMOTE[4]) == "198.51.100.2"
    assert peer_seen(one, remote, REMOTE[6]) == "2001:db8:100::2"
    assert peer_seen(one, two, "10.200.0.3") == "10.200.0.2"
    with pytest.raises(OSError, match="timed out"):
        peer_seen(remote, one, "10.200.0.2")

    listed = host.run(["iptables", "-S", "FORWARD"]).stdout.splitlines()
    from_network = [line for line in listed if "-s 10.200.0.0/16" in line]
    assert len(from_network) == 1
    assert "cni-faasm testnet from 10.200.0.0/16" in from_network[0]
    to_network = [line for line in listed if "-d 10.200.0.0/16" in line]
    assert len(to_network) == 1
    assert "--ctstate RELATED,ESTABLISHED,DNAT" in to_network[0]
    assert "incompatible" not in host.run(["iptables-save"]).stdout
    host.run(["iptables", "-A", "FORWARD", "-j", "DROP"])

    host.check(one, masqueraded(host), result).ok()
    host.run(["iptables", "-F", "FORWARD"])
    details = host.check(one, masqueraded(host), result).error(107)["details"]
    assert "forwarding: nft insert rule ip filter FORWARD" in details

    host.cni("GC", None, {**masqueraded(host), "cni.dev/valid-attachments": []}).ok()
    assert "10.200" not in host.run(["iptables", "-S", "FORWARD"]).stdout
    assert "fd00" not in host.run(["ip6tables", "-S", "FORWARD"]).stdout


def test_a_published_port_is_let_in_where_the_policy_is_drop(docker_host: Host) -> None:
    host = docker_host
    remote = host.add_remote()
    container = host.add_container()
    host.add(container, masqueraded(host))
    dnat = "-t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 10.200.0.2:7000"
    host.run(["iptables", *dnat.split()])
    with container.entered():
        listener = socket.create_server(("", 7000))
    listener.settimeout(3)
    with remote.entered(), socket.create_connection(("198.51.100.2", 8080), timeout=3):
        accepted, (peer, _) = listener.accept()
    accepted.close()
    listener.close()
    assert peer == "198.51.100.1"

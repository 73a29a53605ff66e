"""What a firewall of the host's refuses to containers is said, and nothing else: with packets."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from cni_faasm.netlink.transport import Netlink
from cni_faasm.rules import firewall
from cni_faasm.spec import inet
from tests.attached import REMOTE, Attached, add_remote, answers, config
from tests.host import Host, Namespace

EVERYTHING = {"outside 4", "outside 6", "containers 4", "containers 6"}
V4, V6 = {one for one in EVERYTHING if "4" in one}, {one for one in EVERYTHING if "6" in one}
OUTSIDE = {"outside 4", "outside 6"}


def _chain(text: str, hook: str = "forward") -> str:
    return f"chain forward {{\ntype filter hook {hook} priority filter; {text}\n}}"


def in_filter(rules: str, *, policy: str = "drop", more: str = "") -> str:
    """Return a table as /etc/nftables.conf has one."""
    chain = _chain(f"policy {policy};\n{rules}")
    return f"table inet filter {{\n{more}\n{chain}\n}}\n"


class Case(NamedTuple):
    """A rule set, what of everything it refuses, and what of that is not said."""

    rules: str
    refused: set[str]
    unsaid: set[str] = set()  # noqa: RUF012 -- never changed


KNOWN = "ct state established,related accept\n"
CASES = {
    "nothing is forwarded": Case(in_filter(""), EVERYTHING),
    "nothing but answers": Case(in_filter(KNOWN), EVERYTHING),
    "containers": Case(in_filter(f'{KNOWN} iifname "faasm*" accept'), set()),
    "containers, but no answers": Case(in_filter('iifname "faasm*" accept'), OUTSIDE),
    "containers to the outside": Case(
        in_filter(f'{KNOWN} iifname "faasm*" oifname "uplink" accept'), EVERYTHING - OUTSIDE
    ),
    "to somewhere else": Case(in_filter(f'{KNOWN} oifname "uplink2" accept'), EVERYTHING),
    "one of the ranges": Case(in_filter(f"{KNOWN} ip saddr 10.200.0.0/16 accept"), V6),
    "a range that holds ours": Case(in_filter(f"{KNOWN} ip saddr 10.0.0.0/8 accept"), V6),
    "another range": Case(in_filter(f"{KNOWN} ip saddr 10.201.0.0/16 accept"), EVERYTHING),
    "a range of bits": Case(in_filter(f"{KNOWN} ip saddr 10.200.0.0/13 accept"), V6),
    "half of ours": Case(in_filter(f"{KNOWN} ip saddr 10.200.128.0/17 accept"), EVERYTHING, V4),
    "from here to there": Case(in_filter(f"{KNOWN} ip saddr 10.199.0.0-10.200.255.255 accept"), V6),
    "ranges in a set": Case(
        in_filter(f"{KNOWN} ip saddr {{ 10.0.0.0/8, 192.168.0.0/16 }} accept"), V6
    ),
    "other ranges in a set": Case(
        in_filter(f"{KNOWN} ip saddr {{ 10.0.0.0/9, 192.168.0.0/16 }} accept"), EVERYTHING
    ),
    "a set of somebody's": Case(
        in_filter(
            f"{KNOWN} ip saddr @nets accept",
            more="set nets { type ipv4_addr; flags interval; elements = { 10.9.0.0/16 } }",
        ),
        EVERYTHING,
        V4,
    ),
    "interfaces in a set": Case(
        in_filter(f'{KNOWN} iifname {{ "docker0", "virbr0" }} accept'), EVERYTHING
    ),
    "a map of states": Case(
        in_filter("ct state vmap { established : accept, related : accept, invalid : drop }"),
        EVERYTHING,
    ),
    "a map of interfaces": Case(
        in_filter(
            f'{KNOWN} oifname vmap {{ "uplink" : jump out, "docker0" : accept }}',
            more='chain out { iifname != "faasm*" drop; accept; }',
        ),
        EVERYTHING - OUTSIDE,
    ),
    "two things at once": Case(
        in_filter(f'{KNOWN} meta nfproto . oifname {{ ipv4 . "uplink" }} accept'),
        EVERYTHING - {"outside 4"},
    ),
    "some ports": Case(in_filter(f"{KNOWN} tcp dport 443 accept"), EVERYTHING, EVERYTHING),
    "another protocol": Case(in_filter(f"{KNOWN} meta l4proto udp accept"), EVERYTHING),
    "all but one network": Case(
        in_filter(f"{KNOWN} ip daddr 10.0.0.0/8 reject\nip6 daddr fd00::/8 drop", policy="accept"),
        EVERYTHING - OUTSIDE,
    ),
    "only to the network": Case(
        in_filter(f"{KNOWN} ip daddr 10.200.0.0/16 accept\nip6 daddr fd00:200::/64 accept"), OUTSIDE
    ),
    "only to a part of the network": Case(
        in_filter(f"{KNOWN} ip daddr 10.200.0.0/22 accept"),
        EVERYTHING - {"containers 4"},
    ),
    "only to more than the network": Case(
        in_filter(f"{KNOWN} ip daddr 10.200.0.0/15 accept"),
        EVERYTHING - {"containers 4"},
        {"outside 4"},
    ),
    "not to the network": Case(
        in_filter(f"{KNOWN} ip daddr != 10.200.0.0/14 accept"), EVERYTHING - {"outside 4"}
    ),
    "a negation": Case(in_filter(f"{KNOWN} ip saddr != 10.200.0.0/16 accept"), EVERYTHING),
    "jumps and returns": Case(
        in_filter(
            f"{KNOWN} jump first\nreject",
            more="chain second { return; accept; }\n"
            "chain first { ip saddr 10.200.0.0/16 goto second; tcp dport 1 return; accept; }",
        ),
        V4,
    ),
    "a return of some": Case(
        in_filter(
            "jump first\naccept",
            more="chain first { tcp dport 7777 return; tcp sport 7777 return; drop; }",
        ),
        set(),
    ),
    "published ports": Case(in_filter(f"{KNOWN} ct status dnat accept"), EVERYTHING),
    "a limit": Case(in_filter(f"{KNOWN} limit rate over 100/second drop\naccept"), set()),
    "logged": Case(in_filter(f'{KNOWN} counter log prefix "no " reject'), EVERYTHING),
    "marked": Case(in_filter(f"{KNOWN} meta mark set 7\nmeta mark 7 accept"), set()),
    "not at that hook": Case(
        f"table inet filter {{\n{_chain('policy drop;', hook='input')}\n}}\n",
        set(),
    ),
    "for one family": Case(
        f"table ip filter {{\n{_chain('policy drop;')}\n}}\n",
        V4,
    ),
}


def is_said(host: Host) -> set[str]:
    ranges = [inet.parse_cidr("10.200.0.0/16"), inet.parse_cidr("fd00:200::/64")]
    senders = firewall.Senders("testnet", ranges, "faasm*", isolated=False)
    with host.entered(), Netlink() as netlink:
        found = firewall.refusals(netlink, senders)
    words = {
        firewall.TO_OUTSIDE: "outside",
        firewall.ANSWERS: "outside",
        firewall.TO_EACH_OTHER: "containers",
    }
    return {
        f"{words[way]} {4 if len(net[0]) == 4 else 6}"
        for refusal in found
        for net, way in refusal.refused
    }


def is_refused(remote: Namespace, one: Attached, other: Attached) -> set[str]:
    asked = [
        (f"{what} {version}", server, address)
        for version in (4, 6)
        for what, server, address in (
            ("outside", remote, REMOTE[version]),
            ("containers", other.inside, other.address[version]),
        )
    ]
    with ThreadPoolExecutor() as pool:  # each waits for what does not come
        found = pool.map(lambda way: answers(way[1], one.inside, way[2]), asked)
        return {what for (what, _, _), passes in zip(asked, found, strict=True) if not passes}


def status(host: Host, settings: dict[str, Any]) -> dict[str, Any]:
    call = host.cni("STATUS", None, {**settings, "cniVersion": "1.1.0"})
    return call.ok() if call.status == 0 else call.error(51)


def test_what_is_said_of_rule_sets_is_so(bare_host: Host) -> None:
    host = bare_host
    remote = add_remote(host)
    settings = config(host, ipMasq=True)
    one, other = Attached(host, settings), Attached(host, settings)
    wrong = {}
    for name, case in CASES.items():
        host.run(["nft", "-f", "-"], stdin=case.rules)
        said, refused = is_said(host), is_refused(remote, one, other)
        if (said, refused) != (case.refused - case.unsaid, case.refused):
            wrong[name] = f"said {sorted(said)}, refused {sorted(refused)}"
        family = case.rules.split()[1]
        host.run(["nft", "delete", "table", family, "filter"])
    assert wrong == {}


def test_status_says_code_51_and_add_warns(host: Host) -> None:
    add_remote(host)
    settings = config(host, ipMasq=True)
    assert status(host, settings) == {}
    host.run(["nft", "-f", "-"], stdin=CASES["one of the ranges"].rules)
    told = status(host, settings)
    assert told["msg"] == (
        "network 'testnet' is cut off: a firewall (nft chain inet filter forward) refuses what "
        "fd00:200::/64 send to the outside and send to one another"
    )
    assert 'nft insert rule inet filter forward iifname "faasm*" accept' in told["details"]
    call = host.cni("ADD", host.add_container(), settings)
    call.ok()
    assert f"cni-faasm: {told['msg']}: {told['details'][:40]}" in call.stderr.decode()
    for rule in told["details"].partition(": ")[2].split("; "):
        host.run(["nft", "-f", "-"], stdin=rule.removeprefix("nft "))
    assert status(host, settings) == {}
    assert host.cni("ADD", host.add_container(), settings).stderr == b""


def test_what_isolated_containers_may_not_do_is_not_missed(bare_host: Host) -> None:
    host = bare_host
    add_remote(host)
    host.run(["nft", "-f", "-"], stdin=CASES["containers to the outside"].rules)
    assert "send to one another" in status(host, config(host))["msg"]
    assert status(host, config(host, isolated=True)) == {}


def test_iptables_own_chain(bare_host: Host) -> None:
    host = bare_host
    add_remote(host)
    settings = config(host, ipMasq=True)
    rules = ["iptables", "-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT"]
    host.run(rules)
    host.run([*rules[:3], "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"])
    assert status(host, settings) == {}
    host.run([*rules[:3], "-j", "REJECT"])
    assert "nft chain ip filter FORWARD" in status(host, settings)["msg"]
    host.run(["iptables", "-D", "FORWARD", "-j", "REJECT"])
    # With this the next ADD puts accepts of its own there.
    host.run(["iptables", "-P", "FORWARD", "DROP"])
    assert status(host, settings) == {}
    host.run(["iptables", "-N", "DOCKER-USER"])
    host.run(["iptables", "-I", "FORWARD", "-j", "DOCKER-USER"])
    assert status(host, settings) == {}
    host.run(["iptables", "-A", "DOCKER-USER", "-o", "uplink", "-j", "DROP"])
    assert "what 10.200.0.0/16 send to the outside" in status(host, settings)["msg"]

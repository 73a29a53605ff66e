"""Modules that are not there: what STATUS, ADD and validate say, and what goes without them."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_faasm.link import features
from tests.host import DUAL_STACK, Host, wait_until
from tests.kernels import COUNTS_OF_CONNECTIONS, kernel_version
from tests.tool import Tool

# Which modules this may take out: what others of the guest's need, stays.
PREFIXES = ("act_", "cls_", "sch_", "nf_", "nfnetlink", "nft_", "x_tables", "xt_", "ifb", "veth")
FORBIDDEN = Path("/etc/modprobe.d/taken-away.conf")
ASKED = Path("/run/asked-for")  # a line for each time that the kernel wanted one of them
LIMITS = {"ingressRate": 10**7, "egressRate": 10**7}
EVERYTHING = {
    "ipMasq": True,
    "isolated": True,
    "bandwidth": {**LIMITS, "enforceEgress": "host", "unshapedSubnets": ["10.9.0.0/16"]},
    "ipam": DUAL_STACK,
}
BARE = {"antiSpoof": False}
MASQ = {"antiSpoof": False, "ipMasq": True}
# What is taken away, what is configured, and what is said to be missing.
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "veth": (BARE, ["veth pairs (veth), which each attachment needs"]),
    "sch_htb": (
        {**BARE, "bandwidth": LIMITS},
        ["HTB (sch_htb), which bandwidth needs"],
    ),
    "sch_ingress": (EVERYTHING, ["clsact (sch_ingress), which bandwidth.enforceEgress needs"]),
    "ifb": (EVERYTHING, ["ifb devices (ifb), which bandwidth.enforceEgress needs"]),
    "act_mirred": (
        EVERYTHING,
        ["the action mirred (act_mirred), which bandwidth.enforceEgress needs"],
    ),
    "cls_u32": (EVERYTHING, ["the classifier u32 (cls_u32), which bandwidth.enforceEgress needs"]),
    "cls_u32 cls_flower": (
        {**BARE, "bandwidth": {**LIMITS, "shapedSubnets": ["10.9.0.0/16"]}},
        ["a classifier for subnets (cls_u32 or cls_flower), which bandwidth.shapedSubnets needs"],
    ),
    "nf_tables": (EVERYTHING, ["nf_tables (nf_tables, nfnetlink), which ipMasq and antiSpoof"]),
    "nf_tables nfnetlink": (MASQ, ["nf_tables (nf_tables, nfnetlink), which ipMasq needs"]),
    "nft_chain_nat": (MASQ, ["NAT in nf_tables (nft_chain_nat), which ipMasq needs"]),
    "nft_masq": (MASQ, ["masquerading in nf_tables (nft_masq), which ipMasq needs"]),
    "nft_fib": ({}, ["routing lookups in nf_tables (nft_fib_inet, with", "which antiSpoof needs"]),
    "nft_fib_ipv6": ({}, ["routing lookups in nf_tables (nft_fib_inet, with"]),
    "nft_ct": (EVERYTHING, ["(nft_ct, nf_conntrack), which isolated needs"]),
    "nf_conntrack": (EVERYTHING, ["(nft_chain_nat), which ipMasq", "(nft_ct, nf_conntrack), which"]),
    "sch_htb ifb act_mirred nft_masq nft_fib_inet nft_ct": (
        EVERYTHING,
        ["(sch_htb)", "(ifb)", "(act_mirred)", "(nft_masq)", "(nft_fib_inet,", "(nft_ct,"],
    ),
}  # fmt: skip


def loaded() -> set[str]:
    return {line.split()[0] for line in Path("/proc/modules").read_text().splitlines()}


def is_a_module(name: str) -> bool:
    return (
        subprocess.run(["modinfo", "-n", name], capture_output=True, check=False).stdout[:1] == b"/"
    )


def unload(names: list[str]) -> bool:
    """Take out whatever can go; say whether all of these have."""
    for module in loaded():
        if module.startswith(PREFIXES):
            subprocess.run(["rmmod", module], capture_output=True, check=False)
    return not loaded() & set(names)


@contextlib.contextmanager
def taken_away(words: str) -> Iterator[None]:
    """Let modules be absent for a block: out of the kernel, and not to be loaded."""
    names = words.split()
    wait_until(lambda: unload(names), f"{words} to be out of use", 60)
    FORBIDDEN.write_text(
        "".join(f"install {name} echo {name} >>{ASKED}; false\n" for name in names)
    )
    ASKED.write_text("")
    try:
        yield
    finally:
        FORBIDDEN.unlink()


def asked_for() -> list[str]:
    """Return the modules that the kernel has wanted since the last time."""
    names = ASKED.read_text().split()
    ASKED.write_text("")
    return names


@pytest.mark.parametrize("taken", CASES)
def test_what_is_missing_is_named(host: Host, taken: str) -> None:
    values, words = CASES[taken]
    config = host.config(cniVersion="1.1.0", **values)
    container = host.add_container()
    before = host.snapshot()  # by nft, which needs some of them
    with taken_away(taken):
        status = host.cni("STATUS", None, config).error(50)
        added = host.cni("ADD", container, config).error(106)
        remarks = validated(host, values)
    host.assert_unchanged(before)
    for said in (status["msg"], added["msg"], remarks):
        assert said.count("this kernel lacks") >= 1
        for word in words:
            assert word in said
    assert status["msg"] == f"ADD would fail: {added['msg']}"
    assert "modprobe" in added["details"]
    assert "the kernel said: " in added["details"]


@pytest.mark.parametrize("taken", ["nft_nat", "nft_fib"])
def test_what_ports_lack_is_named(host: Host, taken: str) -> None:
    """Who asks for some is refused; where a runtime may, STATUS and validate warn of it."""
    published = {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}
    offers = {**BARE, "capabilities": {"portMappings": True}}
    config = host.config(cniVersion="1.1.0", **offers)
    container = host.add_container()
    before = host.snapshot()
    with taken_away(taken):
        status = host.cni("STATUS", None, config)
        status.ok()
        # The kernel starts modprobe anew for each rule, which takes its time in a guest.
        asked = {**config, "runtimeConfig": published}
        added = host.cni("ADD", container, asked, timeout=150).error(106)
        remarks = validated(host, offers)
    host.assert_unchanged(before)
    for said in (added["msg"], status.stderr.decode(), remarks):
        assert "destinations by maps of nf_tables (nft_nat, and nft_fib_inet" in said
        assert "which portMappings needs" in said


def validated(host: Host, values: dict[str, Any]) -> str:
    tool = Tool(host)
    path = tool.network(**{"ipMasq": False, "bandwidth": None, **values})
    (file,) = tool("validate", str(path), "--json").ok().document["files"]
    return "; ".join(
        one["message"] for one in file["remarks"] if "this kernel lacks" in one["message"]
    )


@pytest.mark.parametrize("taken", ["nf_tables", "nf_tables nfnetlink", "nft_limit"])
def test_who_masquerades_and_guards_nothing_needs_no_nf_tables(host: Host, taken: str) -> None:
    config = host.config(cniVersion="1.1.0", **BARE, bandwidth=LIMITS)
    asked: dict[str, list[str]] = {}
    with taken_away(taken):
        host.cni("STATUS", None, config).ok()
        asked["STATUS"] = asked_for()
        container, other = host.add_container(), host.add_container()
        result = host.add(container, config)
        asked["ADD"] = asked_for()
        host.add(other, config)
        asked_for()
        host.check(container, config, result).ok()
        asked["CHECK"] = asked_for()
        attached = [{"containerID": container.name, "ifname": "eth0"}]
        host.cni("GC", None, {**config, "cni.dev/valid-attachments": attached}).ok()
        asked["GC"] = asked_for()
        container.run(["ping", "-c1", "-W2", "10.200.0.1"])
        host.check(container, config, result).ok()
        host.delete_attachment(container, config)
        assert host.leases() == {}
        assert host.links() == []
    if "nf_tables" in taken:
        # Two where the first exchange asks for the tables of two families.
        assert {verb: names for verb, names in asked.items() if len(names) > 2} == {}


def test_a_queue_without_a_cutter(host: Host) -> None:
    config = host.config(cniVersion="1.1.0", **BARE, bandwidth=LIMITS)
    with taken_away("sch_tbf"):
        container = host.add_container()
        result = host.add(container, config)
        kinds = [one["kind"] for one in container.qdiscs("eth0")]
        host.check(container, config, result).ok()
    assert kinds == ["htb", "fq_codel"] if is_a_module("sch_tbf") else ["htb", "tbf", "fq_codel"]


def test_a_bfifo_takes_the_place_of_fq_codel(host: Host) -> None:
    config = host.config(cniVersion="1.1.0", **BARE, bandwidth=LIMITS)
    expected = "bfifo" if is_a_module("sch_fq_codel") else "fq_codel"  # built in since Debian 12
    with taken_away("sch_fq_codel"):
        container = host.add_container()
        result = host.add(container, config)
        kinds = {one["kind"] for one in container.qdiscs("eth0")}
        host.check(container, config, result).ok()
    assert kinds == {"htb", "tbf", expected}


def test_a_kernel_of_debian_lacks_nothing(host: Host) -> None:
    """But for what came later than the oldest that we know."""
    later = [] if kernel_version() >= COUNTS_OF_CONNECTIONS else [(features.CONNECTIONS,)]
    with host.entered():
        assert [one.keys for one in features.missing()] == later

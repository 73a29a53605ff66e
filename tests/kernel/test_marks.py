"""Nothing is deleted that does not bear our mark, and no answer is taken for granted.

The group that says "one of this network's" is a number that anybody may use; a name, an index
or a place in the container may be somebody else's by now.
"""

from pathlib import Path

import pytest

from cni_faasm.config import policy
from cni_faasm.link import kernel, removal, veth
from cni_faasm.netlink import dumps, link
from cni_faasm.netlink.transport import Netlink, NetlinkError
from cni_faasm.spec.errors import KERNEL_REFUSED
from tests.host import REPO, Host, Namespace

GROUP = str(policy.group("testnet"))
RATES = {"ingressRate": 10**6, "egressRate": 10**6, "enforceEgress": "host"}
ENODATA = 61


def add_link(host: Namespace, name: str, kind: str, *words: str) -> None:
    host.run(["ip", "link", "add", name, "type", kind])
    if words:
        host.run(["ip", "link", "set", "dev", name, *words])


@pytest.mark.also_reluctant
def test_gc_leaves_what_bears_no_mark(host: Host) -> None:
    """Also links of our group, and an ifb of ours that somebody has given a name of his own."""
    config = host.config(bandwidth=RATES)
    doomed = host.add_container()
    host.add(doomed, config)
    add_link(host, "theirs", "veth", "group", GROUP)
    add_link(host, "bridge", "bridge", "group", GROUP)
    add_link(host, "mirror", "ifb", "group", GROUP, "alias", "uplink's mirror")
    kept = {"theirs", "veth0", "bridge", "mirror"}
    assert kept < set(host.links())
    gone = {**config, "cniVersion": "1.1.0", "cni.dev/valid-attachments": []}
    host.cni("GC", None, gone).ok()
    assert set(host.links()) == kept


@pytest.mark.also_reluctant
def test_del_without_a_record_leaves_another_plugins_pair(host: Host, container: Namespace) -> None:
    """As after an ADD that was refused because that pair had the name."""
    host.run(["ip", "link", "add", "ptp0", "type", "veth", "peer", "eth0", "netns", container.name])
    host.cni("ADD", container, host.config()).error(102)
    host.cni("DEL", container, host.config()).ok()
    assert container.links() == ["eth0"]
    assert host.links() == ["ptp0"]


def test_del_of_what_a_kill_left_before_the_alias(host: Host, container: Namespace) -> None:
    host.add(container, host.config())
    host.run(["ip", "link", "set", "faasm0", "alias", ""])
    [record] = host.records()
    (host.state_dir / record).unlink()
    host.cni("DEL", container, host.config()).ok()
    assert host.links() == []


@pytest.mark.parametrize("change", ["alias", "gone"])
def test_what_changed_since_it_was_found_is_asked_for_again(
    bare_host: Host, rt: Netlink, change: str
) -> None:
    for name in ("one", "two"):
        add_link(bare_host, name, "veth", "alias", "ours")
    found = [one for one in dumps.links(rt, "veth") if one.alias == "ours"]
    assert len(found) == 2
    if change == "alias":
        bare_host.run(["ip", "link", "set", "two", "alias", "theirs"])
    else:
        bare_host.run(["ip", "link", "del", "two"])
    gone = removal.delete_all(rt, found, lambda one: one.alias == "ours")
    assert [one.name for one in gone] == ["one"]
    left = [one.name for one in dumps.links(rt, "veth") if one.name in ("one", "two")]
    assert left == (["two"] if change == "alias" else [])


def test_a_stranger_in_the_group_of_what_is_deleted(bare_host: Host, rt: Netlink) -> None:
    add_link(bare_host, "ours", "veth")
    add_link(bare_host, "theirs", "ifb", "group", str(removal.GC_GROUP))
    found = [one for one in dumps.links(rt, "veth") if one.name == "ours"]
    removal.delete_all(rt, found, lambda one: one.kind == "veth")
    assert bare_host.links() == ["theirs"]


def test_an_acknowledgement_is_no_answer(rt: Netlink) -> None:
    """Of the request that the kernel did not tell of, the error says which it was."""
    silent = link.set_link(1, up=True)
    with pytest.raises(NetlinkError) as caught:
        rt.get(silent)
    assert caught.value.errno == ENODATA
    error = kernel.refusal(caught.value)
    assert error.code == KERNEL_REFUSED
    assert "ip link set dev if1 up" in error.msg
    [answer] = rt.get_tolerant([silent])
    assert isinstance(answer, NetlinkError)


def test_a_pair_that_cannot_be_found_is_an_error(bare_host: Host, rt: Netlink) -> None:
    """What the kernel neither tells of nor shows where it was asked for."""
    silent = link.new_veth("outer", "inner", None, echo=False)
    with bare_host.add_container().entered():
        elsewhere = Netlink()
    with elsewhere, pytest.raises(NetlinkError, match="ip link add outer"):
        veth.new_pair(rt, elsewhere, silent, "inner")


def test_nobody_else_reads_a_dump() -> None:
    """Filters are wishes: netlink/dumps.py looks at every object once more, and alone."""
    allowed = {"netlink/dumps.py", "netlink/transport.py"}
    package = REPO / "cni_faasm"
    readers = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if ".dump(" in without_json(path)
    }
    assert readers <= allowed


def without_json(path: Path) -> str:
    return path.read_text(encoding="utf-8").replace("json.dump(", "")

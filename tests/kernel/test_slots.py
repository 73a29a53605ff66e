"""Slots: claim and return by rename, in each language that docs/slots.md has."""

import json
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_faasm import slots
from cni_faasm.cli.pool.slotfiles import SlotFiles, is_alive
from tests.host import REPO, SYSTEM_PATH, Host, wait_until
from tests.tool import Tool

PAGE = REPO / "docs" / "slots.md"


@pytest.fixture
def tool(bare_host: Host) -> Iterator[Tool]:
    tool = Tool(bare_host)
    tool.network(dns={"nameservers": ["9.9.9.9"]})
    yield tool
    tool("pool", "down", "--force").ok()
    assert not Path(f"{slots.ROOT}/{tool.prefix}").exists()


def example(language: str) -> str:
    """Return the example of a language, as the page has it."""
    [found] = re.findall(rf"```{language}\n(.*?)```\n", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return str(found)


def states(tool: Tool) -> dict[int, str]:
    return SlotFiles(tool.prefix).states()


def test_a_claimed_slot_tells_what_a_runtime_needs(tool: Tool) -> None:
    tool("pool", "up", "2").ok()
    assert states(tool) == {1: "free", 2: "free"}
    slot = slots.claim(tool.prefix)
    [row] = [
        one
        for one in tool("pool", "list", "--json").ok().document["members"]
        if one["number"] == slot.number
    ]
    assert (row["slot"], row["owner"]) == ("claimed", os.getpid())
    told = slot.document
    assert told["netns"] == f"/run/netns/{row['namespace']}"
    for key in ("network", "containerID", "ifname", "hostInterface", "ingress", "egress"):
        assert told[key] == row[key]
    assert told["addresses"] == [f"{row['addresses'][0]}/32"]
    assert told["dns"] == {"nameservers": ["9.9.9.9"]}
    assert Path(told["resolvConf"]).is_file()
    inside = subprocess.run(
        ["nsenter", f"--net={slot.netns}", "ip", "-j", "addr", "show", "dev", slot.ifname],
        capture_output=True,
        check=True,
    )
    [link] = json.loads(inside.stdout)
    assert (link["address"], link["mtu"]) == (told["mac"], told["mtu"])
    slot.give_back()
    assert states(tool)[slot.number] == "returned"
    with pytest.raises(FileNotFoundError):
        slot.give_back()


def test_status_counts_the_slots(tool: Tool) -> None:
    nothing = tool("pool", "status", "--prefix", tool.prefix).ok().stdout
    assert nothing == f"{tool.prefix}: no slots\n"
    tool("pool", "up", "6").ok()
    own, unknown, ended = (slots.claim(tool.prefix, pid=pid) for pid in (0, -1, -1))
    with subprocess.Popen(["true"]) as process:
        claimed = Path(f"{slots.ROOT}/{tool.prefix}/claimed/{ended.number}")
        with claimed.open("a", encoding="ascii") as file:
            file.write(json.dumps({"pid": process.pid, "startTicks": 1}) + "\n")
    returned = slots.claim(tool.prefix)
    returned.give_back()
    free = sorted(number for number, state in states(tool).items() if state == "free")
    tool.host.run(["ip", "link", "set", f"{tool.prefix}{free[0]}", "down"])
    inside = f"{tool.prefix}p{own.number}"
    subprocess.run(
        ["nsenter", f"--net={own.netns}", "ip", "link", "set", inside, "down"], check=True
    )
    outer = f"{tool.prefix}{own.number}"
    wait_until(lambda: not tool.host.is_active(outer), "the host's end to be told")
    counted = tool("pool", "status", "--json").ok().document
    assert counted["broken"] == sorted([free[0], own.number])
    counts = {key: counted[key] for key in ("free", "claimed", "returned", "served")}
    assert counts == {"free": 2, "claimed": 3, "returned": 1, "served": False}
    assert (counted["ownersEnded"], counted["ownersUnknown"]) == (1, 1)
    assert unknown.number not in counted["broken"]
    text = tool("pool", "status").ok().stdout
    assert "6 slots, 2 free, 3 claimed, 1 returned; no server runs" in text


def _claim_some(pool: str, count: int) -> list[int]:
    taken = []
    for _ in range(count):
        try:
            taken.append(slots.claim(pool).number)
        except slots.NoSlotError:
            break
    return taken


def test_one_of_many_that_try_wins(tool: Tool) -> None:
    files = SlotFiles(tool.prefix)
    files.make()
    for number in range(1, 301):
        files.put(number, {"slot": number})
    with multiprocessing.get_context("fork").Pool(6) as pool:
        taken = pool.starmap(_claim_some, [(tool.prefix, 100)] * 6)
    assert sorted(number for some in taken for number in some) == list(range(1, 301))
    with pytest.raises(slots.NoSlotError, match="is free"):
        slots.claim(tool.prefix)
    for number in range(1, 301):
        files.drop(number)
    with pytest.raises(slots.NoSlotError, match="there is no pool"):
        slots.claim("nosuch")


def test_an_owner_is_known_by_its_start_time_and_may_be_another(tool: Tool) -> None:
    tool("pool", "up", "1").ok()
    slot = slots.claim(tool.prefix)
    files = SlotFiles(tool.prefix)
    owner = files.owner(slot.number)
    assert owner is not None
    assert is_alive(owner)
    assert not is_alive(owner._replace(start_ticks=owner.start_ticks + 1))
    assert is_alive(owner._replace(pid=4_000_000, namespace=owner.namespace + 1))
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        slot.hand_over(process.pid)
        other = files.owner(slot.number)
        assert other is not None
        assert other.pid == process.pid
        assert is_alive(other)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive(other), "a zombie"
    assert not is_alive(other)
    Path(f"{files.path}/claimed/{slot.number}").write_text('{}\n{"pid": "x"}\n[]\n{', "utf-8")
    assert files.owner(slot.number) is None


def test_the_tool_claims_with_a_rate_and_returns(tool: Tool) -> None:
    tool("pool", "up", "1").ok()
    told = (
        tool("pool", "claim", "--rate", "5M", "--owner", str(os.getpid()), "--json").ok().document
    )
    assert (
        told["egress"]["limitBitsPerSecond"] == told["ingress"]["limitBitsPerSecond"] == 5_000_000
    )
    said = tool.host.run(["tc", "class", "show", "dev", told["hostInterface"]]).stdout
    assert "rate 5Mbit ceil 5Mbit" in said
    text = Path(f"{slots.ROOT}/{tool.prefix}/claimed/1").read_text(encoding="utf-8")
    assert json.loads(text.splitlines()[0])["egress"] == told["egress"]
    assert json.loads(text.splitlines()[1])["pid"] == os.getpid()
    assert "no slot" in tool("pool", "claim").expect(1).stderr
    assert f"process {os.getpid()} has claimed it" in tool("pool", "down").ok().stderr
    assert states(tool) == {1: "claimed"}
    tool("pool", "return", "1").ok()
    assert "not claimed" in tool("pool", "return", "1").expect(1).stderr
    assert "--rate" in tool("pool", "claim", "--rate", "5Q").expect(2).stderr


def test_down_drops_what_is_free_and_what_a_dead_owner_has(tool: Tool) -> None:
    tool("pool", "up", "3").ok()
    with subprocess.Popen(["true"]) as process:
        gone = slots.claim(tool.prefix, pid=process.pid)
    kept = slots.claim(tool.prefix, pid=-1)
    done = tool("pool", "down").ok()
    assert done.stdout == "2 removed\n"
    assert "somebody has claimed it" in done.stderr
    assert states(tool) == {kept.number: "claimed"}
    assert not Path(gone.netns).exists()


def _command(language: str, source: Path) -> list[str]:
    if language == "python":
        # -S: without what pip has installed, it needs none of it.
        return ["env", f"PYTHONPATH={REPO}", sys.executable, "-S", str(source)]
    if language == "dash":
        return ["dash", str(source)]
    program = str(source.with_suffix(""))
    environment = {
        "PATH": SYSTEM_PATH,
        "HOME": str(source.parent),
        "GOCACHE": "/tmp/slots-go-cache",
    }
    compilers = {
        "c": ["gcc", "-Wall", "-Wextra", "-Werror", "-O2", "-o", program, str(source)],
        "go": ["go", "build", "-o", program, str(source)],
    }
    subprocess.run(compilers[language], check=True, env=environment, cwd=source.parent)
    return [program]


@pytest.mark.parametrize("language", ["python", "dash", "c", "go"])
def test_the_page_has_a_program_that_claims_and_returns(
    tool: Tool, language: str, tmp_path: Path
) -> None:
    tool("pool", "up", "1").ok()
    [member] = tool("pool", "list", "--json").ok().document["members"]
    text = example(language)
    text = text.replace("pools/faasm", f"pools/{tool.prefix}")
    text = text.replace('claim("faasm")', f'claim("{tool.prefix}")')
    assert tool.prefix in text
    ending = {"python": "py", "dash": "sh"}.get(language, language)
    source = tmp_path / f"claim.{ending}"
    source.write_text(text, encoding="utf-8")
    done = tool.host.run(_command(language, source), check=False)
    assert done.returncode == 0, done.stderr
    assert f"{member['ifname']}@" in done.stdout
    assert member["addresses"][0] in done.stdout
    assert states(tool) == {1: "returned"}
    lines = Path(f"{slots.ROOT}/{tool.prefix}/returned/1").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1])["pid"] > 0
    assert json.loads(lines[-1])["startTicks"] > 0
    assert tool.host.run(_command(language, source), check=False).returncode == 1

"""validate: every fault with its line, and what will surprise on this host."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.host import REPO, Host
from tests.kernel.test_cli_looking import plugin_config
from tests.tool import Tool

FAULTY = """\
{
  "cniVersion": "1.0.0",
  "name": "net 1",
  "plugins": [
    { "type": "faasm",
      "mtu": 12,
      "bandwidth": {
        "egressRate": "10M",
        "IngressRate": "10Q"
      },
      "ipam": {
        "type": "host-local",
        "ranges": [
          [{ "subnet": "10.0.0.1/16" }],
          [{ "subnet": "fd00::/64" },
           { "subnet": "10.9.0.0/16" }]
        ],
        "routez": []
      }
    },
    { "type": "tuning" }
  ]
}
"""


@pytest.fixture
def tool(bare_host: Host) -> Tool:
    return Tool(bare_host)


def write(tool: Tool, text: str, name: str = "x.conflist") -> str:
    tool.conf_dir.mkdir(parents=True, exist_ok=True)
    path = tool.conf_dir / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def remarks(tool: Tool, path: str, status: int) -> dict[tuple[int, str, str], str]:
    done = tool("validate", path, "--json", "--conf-dir", str(tool.conf_dir)).expect(status)
    document = done.document
    assert document["valid"] == (status == 0)
    return {
        (one["line"], one["severity"], one["place"]): one["message"]
        for one in document["files"][0]["remarks"]
    }


def test_all_faults_with_their_lines(tool: Tool) -> None:
    path = write(tool, FAULTY)
    found = remarks(tool, path, 1)
    assert {key for key in found if key[1] == "fault"} == {
        (3, "fault", "name"),
        (6, "fault", "plugins[0].mtu"),
        (9, "fault", "plugins[0].bandwidth.ingressRate"),
        (14, "fault", "plugins[0].ipam.ranges[0][0].subnet"),
        (16, "fault", "plugins[0].ipam.ranges[1][1]"),
        (18, "fault", "plugins[0].ipam.routez"),
    }
    text = tool("validate", path).expect(1).stdout
    assert f'{path}:9: plugins[0].bandwidth.ingressRate: value "10Q": allowed is' in text
    assert "routes" in found[18, "fault", "plugins[0].ipam.routez"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('{\n "name": "x",\n}', 3, "double quotes"),
        ("", 1, "nothing is there"),
        ("[]", 1, "object"),
        ('{"name": "x",\n "plugins": []}', 2, "a list of plugins"),
        ('{"name": "x",\n\n "plugins": [{"type": "ptp"}]}', 3, "none is of type faasm"),
        (
            (
                '{"cniVersion": "1.0.0", "name": "x", "plugins": [\n{"type": "faasm", '
                '"ipam": {"subnet": "10.9.0.0/16"},\n"bandwidth": {"ingressBurst": "1M"}}]}'
            ),
            3,
            "must have ingressRate beside it",
        ),
        (
            (
                '{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "ptp"},\n'
                '{"type": "faasm", "ipam": {"subnet": "10.9.0.0/16"}}]}'
            ),
            2,
            "must come first",
        ),
        (
            (
                '{"name": "x",\n"cniVersion": "7.0.0", "plugins": [\n'
                '{"type": "faasm", "ipam": {"subnet": "10.9.0.0/16"}}]}'
            ),
            2,
            "7.0.0",
        ),
    ],
)
def test_files_that_are_wrong_as_a_whole(tool: Tool, text: str, line: int, words: str) -> None:
    found = remarks(tool, write(tool, text), 1)
    assert any(key[0] == line and words in message for key, message in found.items()), found


def test_the_delivered_configuration_is_valid_and_surprises_nobody(tool: Tool) -> None:
    tool.host.add_remote()
    path = str(REPO / "conf" / "10-faasm.conflist")
    done = tool("validate", path, "--conf-dir", str(tool.conf_dir)).ok()
    assert done.stdout == f"{path}: valid\n"


SURPRISES: dict[str, tuple[dict[str, Any], str, str]] = {
    "burst": (
        {"bandwidth": {"ingressRate": "1M", "egressRate": "1M", "egressBurst": "60M"}},
        "bandwidth.egressBurst",
        "a burst of 60 s",
    ),
    "small burst": (
        {"bandwidth": {"ingressRate": "1M", "egressRate": "1M", "egressBurst": 8}},
        "bandwidth.egressBurst",
        "8 bits raised to 12800: one packet must fit",
    ),
    "mtu": ({"mtu": 9000}, "mtu", "above this host's uplink's 1500"),
    "host route": (
        {"ipam": {"subnet": "198.51.0.0/16"}},
        "ipam",
        "overlaps this host's route to 198.51.100.0/24 by uplink",
    ),
    "one direction": ({"bandwidth": {"ingressRate": "1M"}}, "bandwidth", "egressRate is not given"),
    "no masquerade": ({"ipMasq": False}, "ipMasq", "10.200.0.0/16 is private"),
    "no routes": ({"ipam": {"routes": []}}, "ipam.routes", "reach nothing beyond"),
    "capabilities": ({}, "capabilities", "are not passed on"),
}


@pytest.mark.parametrize("name", SURPRISES)
def test_what_will_surprise(tool: Tool, name: str) -> None:
    tool.host.add_remote()
    keys, place, words = SURPRISES[name]
    path = tool.network(**keys)
    found = remarks(tool, str(path), 0)
    [message] = [text for key, text in found.items() if key[2] == f"plugins[0].{place}"]
    assert words in message
    assert "valid, " in tool("validate", str(path)).ok().stdout


def test_running_containers_are_no_surprise(tool: Tool) -> None:
    tool.host.add_remote()
    path = tool.network()
    before = remarks(tool, str(path), 0)
    tool.host.add(tool.host.add_container(), plugin_config(tool))
    assert remarks(tool, str(path), 0) == before


def test_networks_that_overlap(tool: Tool) -> None:
    tool.network(name="first", ipam={"subnet": "10.200.0.0/17"})
    path = tool.network()
    assert any("overlaps 10.200.0.0/17" in text for text in remarks(tool, str(path), 0).values())
    again = write(tool, Path(path).read_text(encoding="utf-8"), "99-again.conflist")
    assert any("of a network 'testnet', too" in text for text in remarks(tool, again, 0).values())


def test_keys_given_twice(tool: Tool) -> None:
    text = json.dumps(json.loads(tool.network().read_text(encoding="utf-8")), indent=1)
    path = write(tool, text.replace('"ipMasq": true', '"ipMasq": true,\n"IPMASQ": false'))
    assert any("given twice" in message for message in remarks(tool, path, 0).values())


def test_a_file_that_is_not_there(tool: Tool) -> None:
    assert "/nowhere" in tool("validate", "/nowhere").expect(3).stderr
    tool("validate").expect(2)


def test_keys_beside_plugins_and_keys_that_nobody_reads(tool: Tool) -> None:
    listed = {
        "cniVersion": "1.0.0",
        "name": "testnet",
        "isolated": True,
        "latency": 5,
        "team": "edge",
        "disableCheck": False,
        "plugins": [{"type": "faasm", "rateClass": "gold", "ipam": {"subnet": "10.9.0.0/24"}}],
    }
    found = remarks(tool, write(tool, json.dumps(listed, indent=1)), 1)
    told = {place: (severity, text) for (_, severity, place), text in found.items()}
    assert told["isolated"][0] == told["latency"][0] == "fault"
    assert "plugins[0].isolated" in told["isolated"][1]
    assert "plugins[0].bandwidth.latency" in told["latency"][1]
    assert told["team"][0] == told["plugins[0].rateClass"][0] == "warning"
    assert "disableCheck" not in told


def listed(*plugins: dict[str, Any], **keys: object) -> str:
    return json.dumps({"cniVersion": "1.0.0", "name": "testnet", "plugins": plugins, **keys})


SUBNET = {"subnet": "10.9.0.0/24"}
OURS: dict[str, Any] = {"type": "faasm", "ipam": SUBNET}
PTP = {"type": "ptp", "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"}}
LIMITS = {"type": "faasm", "bandwidth": {"ingressRate": 10**6}}
CANNOT: dict[str, tuple[tuple[dict[str, Any], ...], str, str]] = {
    "bandwidth behind": ((OURS, {"type": "bandwidth"}), "plugins[1]", "both limit"),
    "bandwidth before": ((PTP, {"type": "bandwidth"}, LIMITS), "plugins[1]", "both limit"),
    "macvlan": (({"type": "macvlan"}, LIMITS), "plugins[0]", "no veth pair"),
    "not installed": ((OURS, {"type": "firewal"}), "plugins[1].type", "is firewall meant?"),
    "no such IPAM": (({**OURS, "ipam": {"type": "dhcpd"}},), "plugins[0].ipam.type", "is dhcp"),
    "a slip": (({**OURS, "type": "fasm"},), "plugins[0].type", "allowed is faasm"),
    "route": (
        ({**OURS, "ipam": {**SUBNET, "routes": [{"dst": "::/0"}]}},),
        "plugins[0].ipam.routes",
        "no IPv6 range",
    ),
    "only the gateway": (
        ({**OURS, "ipam": {"subnet": "10.9.0.0/24", "rangeEnd": "10.9.0.1"}},),
        "plugins[0].ipam.subnet",
        "more addresses than the gateway's",
    ),
    **{
        f"range {net}": (
            ({**OURS, "ipam": {"subnet": net}},),
            "plugins[0].ipam.subnet",
            "must not overlap with",
        )
        for net in ("127.0.0.0/16", "224.0.0.0/16", "0.0.0.0/16", "240.0.0.0/8", "112.0.0.0/4")
    },
    **{
        f"range {net}": (
            ({**OURS, "ipam": {"subnet": net}},),
            "plugins[0].ipam.subnet",
            "must not overlap with",
        )
        for net in ("fe80::/64", "ff02::/64")
    },
    "capability": (
        ({**OURS, "capabilities": {"bandwdth": True}},),
        "plugins[0].capabilities.bandwdth",
        "is bandwidth meant?",
    ),
}


@pytest.mark.parametrize("case", CANNOT)
def test_what_cannot_work(tool: Tool, case: str) -> None:
    """What validate passes, ADD must do."""
    plugins, place, words = CANNOT[case]
    found = remarks(tool, write(tool, listed(*plugins)), 1)
    texts = [
        text for (_, severity, at), text in found.items() if (severity, at) == ("fault", place)
    ]
    assert any(words in text for text in texts), found


ODD: dict[str, tuple[dict[str, Any], str, str]] = {
    "allowHost": ({"allowHost": ["tcp/53"]}, "allowHost", "without isolated"),
    "cap": ({"ingressRate": "10M", "maxIngressRate": "1M"}, "maxIngressRate", "below the file's"),
    "no limit": ({}, "", "are not limited"),
    "log": ({"logFile": "/nowhere/log"}, "logFile", "cannot be written"),
    "capability": ({"capabilities": {"weather": True}}, "capabilities.weather", "not know it"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_has_no_effect(tool: Tool, case: str) -> None:
    keys, place, words = ODD[case]
    path = write(tool, listed({**OURS, **keys}))
    found = remarks(tool, path, 0)
    where = f"plugins[0].{place}".rstrip(".")
    texts = [
        text for (_, severity, at), text in found.items() if (severity, at) == ("warning", where)
    ]
    assert any(words in text for text in texts), found
    assert tool("validate", "--strict", path).expect(1).stdout.count("warning: ") == len(found)


def test_several_files_a_folder_and_stdin(tool: Tool) -> None:
    good = write(tool, listed(OURS), "1.conflist")
    bad = write(tool, listed({**OURS, "mtu": 1}), "2.conflist")
    write(tool, listed(PTP), "3.conflist")
    document = tool("validate", good, bad, "--json").expect(1).document
    assert [(one["file"], one["valid"]) for one in document["files"]] == [
        (good, True),
        (bad, False),
    ]
    assert document["valid"] is False
    folder = tool("validate", str(tool.conf_dir), "--json").expect(1).document
    assert [one["file"] for one in folder["files"]] == [good, bad]
    with tool.host.entered():
        done = subprocess.run(
            tool.argv("validate", "-", "--json"),
            input=listed({**OURS, "mtu": 1}),
            capture_output=True,
            text=True,
            check=False,
            env=tool.environment(),
        )
    assert done.returncode == 1
    assert json.loads(done.stdout)["files"][0]["file"] == "stdin"

"""What is exempt from a limit, and what alone has one, by either classifier."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host import DUAL_STACK, Host, Namespace, wait_until

NEAR = ["198.51.100.0/24", "2001:db8:100::/64"]
NEAR_ADDRESSES = ["198.51.100.1", "2001:db8:100::1"]
FAR_ADDRESSES = ["203.0.113.1", "2001:db8:200::1"]
NO_U32 = Path("/etc/modprobe.d/no-u32.conf")


@pytest.fixture(params=["u32", "flower"])
def classifier(request: pytest.FixtureRequest) -> Iterator[str]:
    """Let the kernel have one of the two classifiers; it loads them by itself."""
    name: str = request.param
    if name == "flower":
        NO_U32.write_text("install cls_u32 /bin/false\n")

        def is_unloaded() -> bool:
            subprocess.run(["modprobe", "-r", "cls_u32"], check=False, capture_output=True)
            return not Path("/sys/module/cls_u32").exists()

        wait_until(is_unloaded, "cls_u32 to go")
    yield name
    NO_U32.unlink(missing_ok=True)


def passed(namespace: Namespace, device: str) -> int:
    """Return how many packets have been limited."""
    (one,) = namespace.classes(device)
    packets: int = one["packets"]
    return packets


@pytest.mark.parametrize("key", ["unshapedSubnets", "shapedSubnets"])
def test_packets_go_where_they_should(
    host: Host, container: Namespace, classifier: str, key: str
) -> None:
    remote = host.add_remote()
    for address in FAR_ADDRESSES:
        remote.run(["ip", "addr", "add", address, "dev", "lo"])
    limits: dict[str, Any] = {"ingressRate": 10**7, "egressRate": 10**7, key: NEAR}
    config = host.config(ipMasq=True, ipam=DUAL_STACK, bandwidth=limits)
    result = host.add(container, config)
    ends = [(host, result["interfaces"][0]["name"]), (container, "eth0")]
    for namespace, device in ends:
        text = namespace.run(["tc", "filter", "show", "dev", device]).stdout
        assert f" {classifier} " in text
    host.check(container, config, result).ok()
    for addresses, limited in (
        (NEAR_ADDRESSES, key == "shapedSubnets"),
        (FAR_ADDRESSES, key == "unshapedSubnets"),
    ):
        for address in addresses:
            before = [passed(*end) for end in ends]
            container.run(["busybox", "ping", "-c", "5", "-i", "0.1", "-W", "5", address])
            more = [passed(*end) - count for end, count in zip(ends, before, strict=True)]
            # What the kernel itself says to a neighbour may be among them.
            assert min(more) >= 5 if limited else max(more) < 5, (address, more)
    host.delete_attachment(container, config)

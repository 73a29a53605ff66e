"""One flow from a remote machine carries what its limit leaves, in frames of any size.

It comes in super-packets of up to 64 KB, for which a short queue has no room.
"""

from pathlib import Path

import pytest

from tests import rates
from tests.attached import REMOTE, add_remote, config
from tests.host import Host

MBIT = 1_000_000
AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
# IPv4 or IPv6, TCP with timestamps.
HEADERS = {4: 20 + 32, 6: 40 + 32}


@pytest.mark.parametrize("congestion", ["cubic", "bbr"])
@pytest.mark.parametrize(
    ("version", "mtu", "rate"),
    [
        (4, 9000, 20 * MBIT),
        (4, 9000, 5 * MBIT),
        (4, 1500, 1 * MBIT),
        (4, 65535, 20 * MBIT),
        (6, 1280, 10 * MBIT),
    ],
)
def test_one_flow_to_the_container(
    host: Host, version: int, mtu: int, rate: int, congestion: str
) -> None:
    remote = add_remote(host)
    for namespace, device in ((host, "uplink"), (remote, "eth0")):
        namespace.run(["ip", "link", "set", device, "mtu", str(mtu)])
    rates.serve(host, remote)
    inside = host.add_container()
    host.add(inside, config(host, mtu=mtu, ipMasq=True, bandwidth={"ingressRate": rate}))
    if congestion not in AVAILABLE.read_text(encoding="ascii").split():
        congestion = ""  # a modular kernel may have to do with its default
    flow = rates.Flow(inside, REMOTE[version], download=True, congestion=congestion)

    def measure_once() -> list[float]:
        rates.measure([flow], seconds=3 if mtu < 65535 else 9)  # a packet is a hundredth of three
        return [flow.bits_per_second]

    share = (mtu - HEADERS[version]) / (mtu + 14)
    rates.assert_near(rate, measure_once, low=0.95, high=1.03, share=share)

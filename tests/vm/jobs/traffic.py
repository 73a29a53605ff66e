"""What a limit of 10 Mbit/s carries, and how long its queue is, on a kernel with fq_codel."""

import re
import statistics
from collections.abc import Callable

import pytest

from tests import rates
from tests.host import Host, Namespace

REMOTE = "198.51.100.1"
# What must be reached: a processor that is emulated on a busy one wakes later than the burst
# of 1 ms lasts. At 1 Mbit/s it is 12 ms.
SHARES = {1_000_000: 0.9, 10_000_000: 0.4}
# Behind HTB's own pfifo of 1,000 packets a ping takes as many times as long as one packet.
PACKETS_QUEUED = 8
LATE_MS = 40


@pytest.mark.parametrize("download", [False, True], ids=["from", "to"])
@pytest.mark.parametrize("rate", SHARES, ids=["1M", "10M"])
def test_goodput_and_delay(
    host: Host,
    container: Namespace,
    record_property: Callable[[str, object], None],
    rate: int,
    download: bool,
) -> None:
    remote = host.add_remote()
    rates.serve(host, remote)
    config = host.config(ipMasq=True, bandwidth={"ingressRate": rate, "egressRate": rate})
    outer = host.add(container, config)["interfaces"][0]["name"]
    for namespace, device in ((host, outer), (container, "eth0")):
        kinds = {queue["handle"]: queue["kind"] for queue in namespace.qdiscs(device)}
        assert kinds == {"1:": "htb", "11:": "tbf", "10:": "fq_codel"}
    seen: list[float] = []
    delays: list[float] = []

    def measure_once() -> list[float]:
        ping = container.start(["ping", "-n", "-i", "0.1", "-w", "4", REMOTE])
        flow = rates.Flow(container, REMOTE, download=download)
        try:
            rates.measure([flow], seconds=4)
        finally:
            output, _ = ping.communicate(timeout=30)
        delays[:] = [float(ms) for ms in re.findall(r" time=([0-9.]+) ms", output.decode())]
        seen[:] = [flow.bits_per_second]
        return seen

    rates.assert_near(rate, measure_once, low=SHARES[rate])
    median = statistics.median(delays)
    which = f"{rate // 10**6} Mbit/s {'to' if download else 'from'} a container"
    record_property(f"{which}: goodput", f"{seen[0] / 1e6:.2f} Mbit/s")
    record_property(f"{which}: RTT", f"{median:.1f} ms, at most {max(delays):.1f}")
    assert len(delays) >= 30
    assert median < PACKETS_QUEUED * 1514 * 8000 / rate + LATE_MS

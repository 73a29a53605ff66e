"""The limit of what a container sends, held by the host when the container has taken off its own."""

import time

from tests.host import Host, Namespace
from tests.kernel.test_enforce_egress import pour

RATE = 1_000_000


def received(namespace: Namespace) -> int:
    """Return how many bytes have come to the remote machine."""
    link = namespace.link("eth0")
    assert link is not None
    count: int = link["stats64"]["rx"]["bytes"]
    return count


def test_it_holds_when_the_inner_queue_is_gone(host: Host, container: Namespace) -> None:
    remote = host.add_remote()
    rates = {"egressRate": RATE, "enforceEgress": "host"}
    config = host.config(ipMasq=True, bandwidth=rates)
    host.add(container, config)
    container.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
    for _ in range(2):
        began, before = time.monotonic(), received(remote)
        pour(container, 0)
        count = received(remote) - before
        # What waits in the queue at the end of one second comes in the next.
        limit = RATE * 1.02 / 8 * (time.monotonic() - began)
        assert count <= limit + 100_000
    assert limit / 2 < count <= limit + 5_000
    # fq_codel drops from its own queues, which HTB's class does not count.
    assert sum(one["drops"] for one in host.qdiscs("ifaasm0")) > 0
    host.delete_attachment(container, config)
    assert host.links() == ["uplink"]

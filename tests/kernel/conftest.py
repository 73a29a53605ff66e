"""Share among the kernel tests a socket of our own on a host that calls no plugin."""

from collections.abc import Iterator

import pytest

from cni_faasm.netlink.transport import Netlink
from tests.host import Host


@pytest.fixture
def rt(bare_host: Host) -> Iterator[Netlink]:
    """Return a socket for links and routes in `bare_host`."""
    with bare_host.entered():
        netlink = Netlink()
    yield netlink
    netlink.close()

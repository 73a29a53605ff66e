"""Read which ports of the host are to lead to a container: runtimeConfig.portMappings.

Loaded only when there are such.
"""

from cni_faasm.config import schema
from cni_faasm.config.schema import Section
from cni_faasm.spec import inet

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
# Each is an element of a map, and all go to the kernel at once.
MAX_PORTS = 4096
_MAX_PORT = 65535


class Port:
    """One or more ports of the host, one after the other, that lead to as many of a container's.

    protocol: its number. host_address: packed; None for all of both families, the unspecified one
    for all of its own.
    """

    __slots__ = ("count", "host_address", "host_port", "port", "protocol")

    def __init__(
        self,
        protocol: int,
        host_address: bytes | None,
        host_port: int,
        port: int,
        count: int = 1,
    ) -> None:
        self.protocol = protocol
        self.host_address = host_address
        self.host_port = host_port
        self.port = port
        self.count = count

    def to_fields(self) -> list[object]:
        """Return it as the attachment record keeps it."""
        address = None if self.host_address is None else inet.unpack(self.host_address)
        return [self.protocol, address, self.host_port, self.port, self.count]


def from_fields(fields: object) -> Port:
    """Return what a record keeps. Raises: ValueError, TypeError."""
    if not isinstance(fields, list):
        raise TypeError(fields)
    protocol, address, host_port, port, count = fields
    numbers = (host_port, port, count)
    if protocol not in PROTOCOLS.values() or not all(
        isinstance(one, int) and 0 < one <= _MAX_PORT for one in numbers
    ):
        raise ValueError(fields)
    return Port(protocol, None if address is None else inet.pack(address), *numbers)


def read(runtime: Section) -> list[Port]:
    """Return the ports that the runtime asks for; faults go to the section's."""
    found: list[Port] = []
    total = 0
    for item in runtime.sections("portMappings", schema.PORT):
        host_port = item.number("hostPort", 0, _MAX_PORT)
        port = item.number("containerPort", 1, _MAX_PORT)
        count = item.number("range", 1, _MAX_PORT) or 1
        if "containerPort" not in item.values:
            item.fault("containerPort", f"a number from 1 to {_MAX_PORT}")
        name = (item.text("protocol") or "tcp").lower()
        if name not in PROTOCOLS:
            item.fault("protocol", ", ".join(PROTOCOLS))
        address = item.parsed(
            "hostIP", schema.optional_address, "an address of the host's, or none"
        )
        if not host_port or not port or name not in PROTOCOLS:
            continue  # without a port of the host there is nothing to publish
        if max(host_port, port) + count - 1 > _MAX_PORT:
            item.fault("range", must=f"end at port {_MAX_PORT}")
            continue
        total += count
        found.append(Port(PROTOCOLS[name], address, host_port, port, count))
    if total > MAX_PORTS:
        runtime.fault("portMappings", f"{MAX_PORTS} ports in all")
        return []
    return found

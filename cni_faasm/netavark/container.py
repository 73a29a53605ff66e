"""Turn netavark's setup and teardown of a container into a CNI call, and the answer back."""

from cni_faasm.netavark import network as networks
from cni_faasm.netavark import options
from cni_faasm.netavark.given import Given
from cni_faasm.spec import protocol
from cni_faasm.spec.errors import INVALID_ENVIRONMENT, CniError

CNI_VERBS = {"setup": "ADD", "teardown": "DEL"}
_RATE = "Rate"


class Call:
    """One call of a verb: its variables and its configuration.

    addresses: those that podman leased, as text.
    """

    __slots__ = ("addresses", "document", "variables")

    def __init__(
        self,
        variables: dict[str, str],
        document: dict[str, object],
        addresses: list[str],
    ) -> None:
        self.variables = variables
        self.document = document
        self.addresses = addresses


def call(verb: str, netns: str, given: dict[str, object]) -> Call:
    """Return the CNI call that a setup or teardown is.

    teardown passes over all that is wrong, as DEL does.
    Raises: CniError 2, 6, 7.
    """
    executed = Given(given)
    network = executed.child("network")
    own = executed.child("network_options")
    faults: list[str] = []
    document = networks.document(network, faults)
    asked = options.read(own.pairs("options"), options.CONTAINER, options.OF_CONTAINER, faults)
    _share_burst(asked, faults)
    options.place(document, asked, options.CONTAINER)
    runtime = document.setdefault("runtimeConfig", {})
    addresses = own.texts("static_ips")
    mac = own.text("static_mac")
    if isinstance(runtime, dict):
        runtime.update({"ips": addresses} if addresses else {})
        runtime.update({"mac": mac} if mac else {})
        ports = _ports(executed)
        runtime.update({"portMappings": ports} if ports else {})
    if verb == "setup":
        networks.check(document, faults, "ADD")
        if networks.podman_leases(network) and len(addresses) < len(network.children("subnets")):
            raise CniError(
                INVALID_ENVIRONMENT,
                f"network_options.static_ips: {len(addresses)} addresses for "
                f"{len(network.children('subnets'))} subnets",
                "podman leases one of each; this was called by something else",
            )
    variables = {
        "CNI_COMMAND": CNI_VERBS[verb],
        "CNI_CONTAINERID": executed.text("container_id"),
        "CNI_NETNS": netns,
        "CNI_IFNAME": own.text("interface_name"),
    }
    name = executed.text("container_name")
    if protocol.is_name(name):  # as podman 4 told plugins of CNI
        variables["CNI_ARGS"] = f"IgnoreUnknown=1;K8S_POD_NAME={name}"
    return Call(variables, document, addresses)


def _share_burst(asked: dict[str, object], faults: list[str]) -> None:
    """Give a container's burst to each direction that has a rate beside it."""
    burst = asked.pop("burst", None)
    if burst is None:
        return
    directions = [name.removesuffix(_RATE) for name in asked if name.endswith(_RATE)]
    if not directions:
        faults.append(f"{options.OF_CONTAINER} burst: without egressRate or ingressRate, no limit")
    for direction in directions:
        asked.setdefault(f"{direction}Burst", burst)


def _ports(executed: Given) -> list[dict[str, object]]:
    """Return CNI's port mappings for podman's; a protocol may be several there."""
    made: list[dict[str, object]] = []
    for one in executed.children("port_mappings"):
        for name in (one.text("protocol") or "tcp").split(","):
            mapping: dict[str, object] = {
                "hostPort": one.values.get("host_port"),
                "containerPort": one.values.get("container_port"),
                "protocol": name.strip(),
                "hostIP": one.text("host_ip"),
            }
            count = one.values.get("range")
            made.append({**mapping, **({"range": count} if count not in (None, 0, 1) else {})})
    return made


def status(result: dict[str, object], ifname: str) -> dict[str, object]:
    """Return netavark's status block for a CNI result of version 1.1.0."""
    told = Given(result)
    inner = next(one for one in told.children("interfaces") if one.text("name") == ifname)
    dns = told.child("dns")
    return {
        "dns_search_domains": dns.texts("search"),
        "dns_server_ips": dns.texts("nameservers"),
        "interfaces": {
            ifname: {
                "mac_address": inner.text("mac"),
                "subnets": [
                    {"ipnet": one.text("address"), "gateway": one.text("gateway")}
                    for one in told.children("ips")
                ],
            }
        },
    }


def error(msg: str, details: str) -> dict[str, object]:
    """Return netavark's word of a failure, which podman shows."""
    return {"error": f"{msg}: {details}" if details else msg}

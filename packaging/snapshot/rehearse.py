"""Call what every ADD calls and nothing but computes, so that the snapshot holds it adapted.

Python's instructions adapt themselves to what they were given, and Python remembers where it found
names, when a function has been called some times. In a call of some milliseconds that would come
too late. Nothing here opens, asks or changes anything, so it is the same on every machine.
"""

from cni_faasm import serve as edge
from cni_faasm.attachment import accepted, plan, plan_fields
from cni_faasm.config import loading
from cni_faasm.limits import shaping
from cni_faasm.netlink import nft, nft_map
from cni_faasm.rules import ports
from cni_faasm.spec import inet, jsonio, protocol, results
from cni_faasm.verbs import add

TIMES = 20  # instructions are adapted after eight, and then settle
LIMITS = {"ingressRate": "10M", "egressRate": 20_000_000}
ENVIRONMENT = {
    b"CNI_COMMAND": b"ADD",
    b"CNI_CONTAINERID": b"0123456789abcdef",
    b"CNI_NETNS": b"/run/netns/one",
    b"CNI_IFNAME": b"eth0",
    b"CNI_PATH": b"/opt/cni/bin",
    b"CNI_ARGS": b"IgnoreUnknown=1;K8S_POD_NAME=pod",
}


def configurations() -> list[bytes]:
    """Return what runtimes would send: one family and both, with limits and without."""
    one = {"type": "host-local", "subnet": "10.200.0.0/16", "routes": [{"dst": "0.0.0.0/0"}]}
    both = {
        "type": "host-local",
        "ranges": [[{"subnet": "10.200.0.0/16"}], [{"subnet": "fd00:200::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    }
    head = {"cniVersion": "1.0.0", "name": "faasm", "type": "faasm", "ipMasq": True}
    published = [
        {"hostPort": 80 + one, "containerPort": 8000, "protocol": "tcp"} for one in range(9)
    ]
    runtime = {
        "bandwidth": {"ingressRate": 10**7, "ingressBurst": 10**7},
        "portMappings": published,
    }
    return [
        jsonio.dumps({**head, **keys})
        for keys in (
            {"ipam": one},
            {"ipam": one, "bandwidth": LIMITS},
            {"ipam": both, "bandwidth": LIMITS, "runtimeConfig": runtime},
        )
    ]


def call(stdin: bytes) -> None:
    """Read a call, plan the attachment, write its record and its result."""
    request = protocol.parse_request(edge.cni_variables(ENVIRONMENT), protocol.decode(stdin))
    config = loading.load(request.document, request.args)
    config.accepted = accepted.text_of(request.document)
    addresses = [
        plan.PlannedAddress(one[0].network[:-1] + b"\x05", one[0].network[:-1] + b"\x01")
        for one in config.range_sets
    ]
    promised = plan.make(
        config,
        request,
        addresses,
        mtu=plan.link_mtu(config, 1500),
        queue="fq_codel",
        boot_id="01234567-89ab-cdef-0123-456789abcdef",
        created=0,
        random=bytes(range(12)),
    )
    recorded = {**plan_fields.to_fields(promised), **accepted.fields(config)}
    plan_fields.from_fields(jsonio.load_object(jsonio.dumps(recorded), "the record"))
    for one in (promised.ingress, promised.egress):
        shaping.messages(7, one)
    for place, found in ports.elements(promised).items():
        if not place.startswith("own"):
            nft_map.new_elements(nft.NFPROTO_INET, "ports_faasm", place, found)
    for item in addresses:
        inet.unpack(item.address)
    document = results.result_document(add.result_of(promised), request.cni_version)
    results.parse_result(jsonio.load_object(jsonio.dumps(document), "the result"))


def main() -> None:
    for _ in range(TIMES):
        for stdin in configurations():
            call(stdin)

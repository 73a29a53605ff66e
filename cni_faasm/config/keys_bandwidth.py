"""Keys of limits: rates, bursts, packets, connections, and what several have together."""

from cni_faasm.config.key import Key

# As the reference `bandwidth` has them, and what it takes from the runtime.
_ALSO_FLAT = ("", "runtimeConfig.bandwidth")

BANDWIDTH = (
    Key("bandwidth", "object", "none", "the rates and bursts below, and what else is limited"),
    Key(
        "ingressRate",
        "rate",
        "0: unlimited",
        "limit to the container",
        at="bandwidth",
        also=_ALSO_FLAT,
    ),
    Key(
        "egressRate",
        "rate",
        "0: unlimited",
        "limit from the container",
        at="bandwidth",
        also=_ALSO_FLAT,
    ),
    Key(
        "ingressBurst",
        "bits",
        "computed: 18 ms at the rate, at least one packet",
        "how much may pass at full speed after a pause, to the container",
        at="bandwidth",
        also=_ALSO_FLAT,
    ),
    Key(
        "egressBurst",
        "bits",
        "as above",
        "the same, from the container",
        at="bandwidth",
        also=_ALSO_FLAT,
    ),
    Key(
        "unshapedSubnets",
        "list of networks",
        "none",
        "traffic to and from these is not limited, IPv4 and IPv6, in both directions",
        at="bandwidth",
        also=_ALSO_FLAT,
    ),
    Key(
        "shapedSubnets",
        "list of networks",
        "none",
        "only traffic to and from these is limited. One of the two",
        at="bandwidth",
        also=_ALSO_FLAT,
    ),
    Key(
        "enforceEgress",
        "text",
        '`""`',
        '`"host"`: limit what the container sends by a queue on the host as well',
        at="bandwidth",
    ),
    Key(
        "latency",
        "ms",
        "15 up to 670 Mbit/s, then 1.25 MB or 2 ms",
        'length of the queue at the rate: 1 to 10000, as a number or `"5ms"`, `"1s"`. Shorter '
        "queues answer sooner and drop more. At least six packets fit; CoDel lets packets wait "
        "a third of it",
        at="bandwidth",
    ),
    Key(
        "packetRate",
        "packets/s",
        "0: unlimited",
        "limit of packets in each direction, beside that of bits: 0 to 100000000",
        at="bandwidth",
    ),
    Key(
        "packetBurst",
        "number",
        "50 ms at the rate, at least 16",
        "how many packets may come at once, in each direction: 1 to 10000000",
        at="bandwidth",
    ),
    Key(
        "ingressPacketRate",
        "packets/s",
        "`packetRate`",
        "limit of packets to the container",
        at="bandwidth",
    ),
    Key(
        "ingressPacketBurst",
        "number",
        "`packetBurst`, of the same rate",
        "how many may come at once, to the container",
        at="bandwidth",
    ),
    Key(
        "egressPacketRate",
        "packets/s",
        "`packetRate`",
        "limit of packets from the container",
        at="bandwidth",
    ),
    Key(
        "egressPacketBurst",
        "number",
        "`packetBurst`, of the same rate",
        "how many may come at once, from the container",
        at="bandwidth",
    ),
    Key(
        "maxConnections",
        "number",
        "0: unlimited",
        "how many connections the container may have that the host tracks, opened by it or "
        "to it, IPv4 and IPv6 together: 0 to 10000000",
        at="bandwidth",
    ),
    Key(
        "shared",
        "object",
        "none",
        "limits that several containers have [together](#limits-of-several-containers), with the "
        "next three keys in it",
        at="bandwidth",
    ),
    Key("ingressRate", "rate", "0: unlimited", "to all of them", at="bandwidth.shared"),
    Key("egressRate", "rate", "0: unlimited", "from all of them", at="bandwidth.shared"),
    Key(
        "by",
        "text",
        '`""`: all of the network',
        "the name of an argument: those share that have the same value of it, in `CNI_ARGS` or "
        "in `args.cni.labels`",
        at="bandwidth.shared",
    ),
    Key(
        "maxIngressRate",
        "rate",
        "no cap",
        "the most that the runtime may ask for, to the container. Stands beside `bandwidth`, "
        "not in it",
    ),
    Key("maxEgressRate", "rate", "no cap", "the same, from the container"),
    Key(
        "ratesByArgs",
        "true, false",
        "`false`",
        "heed limits in [`CNI_ARGS`](#what-the-runtime-adds): who may write those may ask for "
        "limits. Beside `bandwidth` as well",
    ),
)

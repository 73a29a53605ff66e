"""The registry of configuration keys: where each stands, what it holds, what it means.

The reading of a configuration, near misses, "it has no meaning here" and the tables of
docs/configuration.md are made of it. A new key is an entry here, and the reading of its value in
the module of its object; `bin/key_tables.py` then writes the tables.
"""


class Key:
    """One key of the configuration.

    kind: type and unit of the value. default, meaning: as docs/configuration.md tells them. at: the
    object in which it stands, "" for the plugin's own, with [] after what is a list. also: other
    objects that may have it.
    """

    __slots__ = ("also", "at", "default", "kind", "meaning", "name")

    def __init__(
        self,
        name: str,
        kind: str,
        default: str = "",
        meaning: str = "",
        *,
        at: str = "",
        also: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.kind = kind
        self.default = default
        self.meaning = meaning
        self.at = at
        self.also = also


# As the reference `bandwidth` has them, and what it takes from the runtime.
_ALSO_FLAT = ("", "runtimeConfig.bandwidth")
_ALSO_RANGE = ("ipam.ranges[][]",)

# By the table of docs/configuration.md in which they stand.
TABLES = {
    "network": (
        Key(
            "cniVersion",
            "text",
            '`"0.1.0"`',
            "version of the specification: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0 or 1.1.0. From "
            "1.1.0 on there are GC and STATUS, from 0.4.0 CHECK",
        ),
        Key(
            "name",
            "text",
            "required",
            "the network's name: a letter or digit, then letters, digits, `_`, `.`, `-`; at most "
            "249. Names the folders of leases and records and the nftables table `faasm_<name>`",
        ),
        Key("type", "text", "required", '`"faasm"`'),
        Key(
            "mtu",
            "bytes",
            "that of the host's way out, else 1500",
            "of both ends: 68 to 65535, with IPv6 at least 1280; 0 is the default. Example: `1400`."
            " The way out is the default routes of the families that the network has: of their "
            "interfaces, and of `mtu` in the routes themselves, the smallest counts",
        ),
        Key("ipMasq", "true, false", "`false`", "masquerade what leaves the network's ranges"),
        Key(
            "hostInterfacePrefix",
            "text",
            '`"faasm"`',
            "the host's ends are called so with a number after it; 1 to 11 letters, digits, `_`, "
            "`.`, `-`",
        ),
        Key(
            "stateDir",
            "path",
            '`"/var/lib/cni/faasm"`',
            "folder of the attachment records; absolute, without `..`, not the same as `dataDir`",
        ),
        Key(
            "dataDir",
            "path",
            '`"/var/lib/cni/networks"`',
            "folder of the leases; the same as `ipam.dataDir`",
        ),
        Key(
            "lockTimeout",
            "ms",
            "`10000`",
            "how long a call waits for the lock of the leases before error 11; 1 to 600000",
        ),
        Key(
            "ipamTimeout",
            "ms",
            "`60000`",
            "how long [another IPAM plugin](#other-ipam-plugins) may take; 1 to 600000",
        ),
        Key(
            "logFile",
            "path",
            "none",
            "a line for each step of each call, with its time, and the `TRACEPARENT` that a runtime"
            " passes; so does `CNI_FAASM_LOG` in the runtime's environment. At most 4 MiB, and as "
            "much in `FILE.1`; a file that is not its own, or that others may write, is left alone",
        ),
        Key(
            "sandbox",
            "text",
            '`""`',
            '`"gvisor"`: CHECK allows that the container\'s end has neither addresses nor routes, '
            "which gVisor takes into its own network stack. Where one is left, all must be there",
        ),
        Key(
            "antiSpoof",
            "true, false",
            "`true`",
            "drop what a container sends from an address or a MAC that is not its own",
        ),
        Key(
            "isolated",
            "true, false",
            "`false`",
            "containers reach the outside, but neither each other nor the host",
        ),
        Key(
            "allowHost",
            "list of text",
            "none",
            'what isolated containers may reach of the host: `"tcp/53"`, `"udp/53"`, `"icmp"`, '
            '`"icmpv6"`',
        ),
        Key(
            "capabilities",
            "object",
            "none",
            "what the runtime shall pass in `runtimeConfig`: `bandwidth`, `ips`, `ipRanges`, `mac`,"
            " `dns`, `portMappings`",
        ),
    ),
    "bandwidth": (
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
    ),
    "ipam": (
        Key(
            "ipam", "object", "required", "at least one subnet, unless the runtime gives `ipRanges`"
        ),
        Key(
            "type",
            "text",
            '`"host-local"`',
            "`faasm` does itself what `host-local` does; [any other](#other-ipam-plugins) is "
            "executed",
            at="ipam",
        ),
        Key(
            "delegate",
            "true, false",
            "`false`",
            "execute `host-local`, too, instead of doing it",
            at="ipam",
        ),
        Key(
            "subnet",
            "network",
            "",
            '`"10.200.0.0/16"`, without host bits. Of one or two addresses (/32, /31, /128, /127) '
            "all are leased, and `gateway` must be given. The first range set, with the next three "
            "keys",
            at="ipam",
            also=_ALSO_RANGE,
        ),
        Key(
            "rangeStart",
            "address",
            "the subnet's first host",
            "first address to lease",
            at="ipam",
            also=_ALSO_RANGE,
        ),
        Key(
            "rangeEnd",
            "address",
            "the subnet's last host",
            "last address to lease, included",
            at="ipam",
            also=_ALSO_RANGE,
        ),
        Key(
            "gateway",
            "address",
            "the subnet's first host",
            "the host's address on the containers' links; never leased. May lie outside the subnet",
            at="ipam",
            also=_ALSO_RANGE,
        ),
        Key(
            "ranges",
            "list of lists",
            "none",
            "range sets: each a list of objects with `subnet`, `rangeStart`, `rangeEnd`, `gateway`,"
            " all of one family. A container gets one address of every set, so IPv4 and IPv6 are "
            "two sets. No two ranges overlap",
            at="ipam",
        ),
        Key("routes", "list", "none", "see below", at="ipam"),
        Key(
            "dataDir",
            "path",
            '`"/var/lib/cni/networks"`',
            "folder of the leases; absolute, without `..`",
            at="ipam",
        ),
        Key(
            "resolvConf",
            "path",
            "none",
            "a `resolv.conf` that tells the container's DNS, when [`dns`](#names-dns) does not",
            at="ipam",
        ),
    ),
    "routes": (
        Key("dst", "network", "required", '`"0.0.0.0/0"`, without host bits', at="ipam.routes[]"),
        Key("gw", "address", "the range's gateway", "next hop", at="ipam.routes[]"),
        Key("mtu", "bytes", "none", "path MTU; 0 is none", at="ipam.routes[]"),
        Key("advmss", "bytes", "none", "MSS told to the peer; 0 is none", at="ipam.routes[]"),
        Key(
            "priority",
            "number",
            "the kernel's own, or the next that is free",
            "metric: 0 in IPv4, 1024 in IPv6",
            at="ipam.routes[]",
        ),
        Key("table", "number", "the main table", "routing table", at="ipam.routes[]"),
        Key("scope", "number", "by the kernel", "0 global, 253 link", at="ipam.routes[]"),
    ),
    "dns": (
        Key("dns", "object", "none", "the four keys below"),
        Key("nameservers", "list of addresses", "none", "in order of preference", at="dns"),
        Key("domain", "text", "none", "local domain", at="dns"),
        Key("search", "list of text", "none", "domains to try for short names", at="dns"),
        Key("options", "list of text", "none", 'such as `"ndots:5"`', at="dns"),
    ),
    "slot": (
        Key("slot", "object", "none", "what each member of a pool has inside: the keys below"),
        Key("tap", "text", "required", "name of the TAP in the namespace", at="slot"),
        Key(
            "address",
            "address",
            "required",
            "of the machine behind the TAP, IPv4 with a prefix length of at most 30: "
            '`"169.254.100.2/30"`. Its gateway is the first other address of that network',
            at="slot",
        ),
        Key("mac", "text", '`"02:fa:a5:00:00:02"`', "the machine's", at="slot"),
        Key("user", "number", "`0`", "uid of who may open the TAP", at="slot"),
    ),
    "runtime": (
        Key(
            "runtimeConfig",
            "object",
            "",
            "what `capabilities` lets the runtime set for one container",
        ),
        Key(
            "bandwidth",
            "object",
            "",
            "`ingressRate`, `egressRate`, `ingressBurst`, `egressBurst`",
            at="runtimeConfig",
        ),
        Key(
            "ips",
            "list",
            "",
            'addresses to lease, as `"10.200.0.7"` or `"10.200.0.7/16"`; each in another range set,'
            " none the gateway",
            at="runtimeConfig",
            also=("args.cni",),
        ),
        Key(
            "ipRanges",
            "list of lists",
            "",
            "range sets as in `ipam.ranges`; they come before the file's",
            at="runtimeConfig",
        ),
        Key(
            "mac",
            "text",
            "",
            'MAC address of the container\'s end: `"02:00:00:00:00:07"`; no group address',
            at="runtimeConfig",
            also=("args.cni",),
        ),
        Key(
            "dns",
            "object",
            "",
            "`servers`, `searches`, `options`: each that is not empty replaces the file's",
            at="runtimeConfig",
        ),
        Key(
            "portMappings",
            "list",
            "",
            "[ports of the host](#published-ports) that lead to the container: `hostPort`, "
            "`containerPort`, `protocol`, `hostIP`, `range`",
            at="runtimeConfig",
        ),
        Key("args", "object", "", "of which `args.cni` is read"),
        Key("cni", "object", "", "`ips`, `mac`, as above", at="args"),
        Key(
            "prevResult",
            "object",
            "",
            "at CHECK and DEL: what the plugins of the list have made; at ADD, without `ipam`: what"
            " an earlier plugin has made",
        ),
        Key(
            "cni.dev/valid-attachments",
            "list",
            "",
            "at GC: what to keep, each with `containerID` and `ifname`; `[]` or `null` keeps "
            "nothing. Without the key, or with a fault in the list, GC removes nothing (7)",
        ),
        Key("cni.dev/attachments", "list", "", "the same, as older runtimes call it"),
    ),
    # Told with the object in which they stand.
    "": (
        Key("servers", "list of addresses", at="runtimeConfig.dns"),
        Key("searches", "list of text", at="runtimeConfig.dns"),
        Key("options", "list of text", at="runtimeConfig.dns"),
        Key("hostPort", "number", at="runtimeConfig.portMappings[]"),
        Key("containerPort", "number", at="runtimeConfig.portMappings[]"),
        Key("protocol", "text", at="runtimeConfig.portMappings[]"),
        Key("hostIP", "address", at="runtimeConfig.portMappings[]"),
        Key("range", "number", at="runtimeConfig.portMappings[]"),
        Key("containerID", "text", at="cni.dev/valid-attachments[]"),
        Key("ifname", "text", at="cni.dev/valid-attachments[]"),
    ),
}


def names(place: str) -> dict[str, str]:
    """Return the keys that an object may have: in lower case -> as it is written."""
    return {
        key.name.lower(): key.name
        for table in TABLES.values()
        for key in table
        if place == key.at or place in key.also
    }

"""Keys of the network itself: the plugin's own object, routes, DNS, slots."""

from cni_faasm.config.key import Key

NETWORK = (
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
)

ROUTES = (
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
)

DNS = (
    Key("dns", "object", "none", "the four keys below"),
    Key("nameservers", "list of addresses", "none", "in order of preference", at="dns"),
    Key("domain", "text", "none", "local domain", at="dns"),
    Key("search", "list of text", "none", "domains to try for short names", at="dns"),
    Key("options", "list of text", "none", 'such as `"ndots:5"`', at="dns"),
)

SLOT = (
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
)

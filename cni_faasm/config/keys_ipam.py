"""Keys of address management."""

from cni_faasm.config.key import Key

_ALSO_RANGE = ("ipam.ranges[][]",)

IPAM = (
    Key("ipam", "object", "required", "at least one subnet, unless the runtime gives `ipRanges`"),
    Key(
        "type",
        "text",
        '`"host-local"`',
        "`faasm` does itself what `host-local` does; [any other](#other-ipam-plugins) is executed",
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
)

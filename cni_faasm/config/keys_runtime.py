"""Keys that a runtime adds for one container, or for one call."""

from cni_faasm.config.key import Key

RUNTIME = (
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
)

# Told with the object in which they stand.
INNER = (
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
)

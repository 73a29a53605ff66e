"""Read the DNS part of a configuration, or of resolv.conf. Loaded only when there is one."""

import posix

from cni_faasm import inet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni_faasm.config_schema import Section

_MAX_RESOLV_CONF = 1 << 16
_COMMENT = ("#", ";")


def read(section: "Section | None", asked: "Section | None") -> "dict[str, object]":
    """Return CNI's DNS object; each of the runtime's lists that is not empty wins.

    section: "dns" of the file. asked: runtimeConfig.dns, which has its own names.
    """
    dns: dict[str, object] = {}
    if section:
        _put(dns, "nameservers", section, "nameservers")
        domain = section.text("domain")
        if domain:
            if _is_word(domain):
                dns["domain"] = domain
            else:
                section.fault("domain", "a domain without blanks")
        _put(dns, "search", section, "search")
        _put(dns, "options", section, "options")
    if asked:
        _put(dns, "nameservers", asked, "servers")
        _put(dns, "search", asked, "searches")
        _put(dns, "options", asked, "options")
    return dns


def _put(dns: "dict[str, object]", name: str, section: "Section", key: str) -> None:
    texts = section.texts(key)
    check, allowed = _is_word, "texts without blanks"
    if name == "nameservers":
        check, allowed = _is_server, "IPv4 and IPv6 addresses"
    if not all(check(text) for text in texts):
        section.fault(key, allowed)
    elif texts:
        dns[name] = texts


def _is_word(text: str) -> bool:
    return bool(text) and text.isprintable() and " " not in text


def _is_server(text: str) -> bool:
    try:
        inet.pack(text.partition("%")[0])  # fe80::1%eth0
    except ValueError:
        return False
    return text.isprintable() and " " not in text


def read_resolv_conf(path: str) -> "dict[str, object]":
    """Return the DNS object that a resolv.conf tells. Raises: OSError."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    try:
        return parse_resolv_conf(posix.read(fd, _MAX_RESOLV_CONF))
    finally:
        posix.close(fd)


def parse_resolv_conf(data: bytes) -> "dict[str, object]":
    """Return the DNS object that the text of a resolv.conf tells."""
    text = data.decode("utf-8", "replace")
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    dns: dict[str, object] = {}
    for line in text.split("\n"):
        words = line.split()
        if len(words) < 2 or words[0].startswith(_COMMENT):
            continue
        if words[0] == "nameserver" and _is_server(words[1]):
            servers.append(words[1])
        elif words[0] == "domain" and _is_word(words[1]):
            dns["domain"] = words[1]
        elif words[0] == "search":  # the last one counts
            search = [word for word in words[1:] if _is_word(word)]
        elif words[0] == "options":
            options.extend(word for word in words[1:] if _is_word(word))
    lists = (("nameservers", servers), ("search", search), ("options", options))
    dns.update({key: items for key, items in lists if items})
    return dns

"""Read the DNS part of a configuration, or of resolv.conf. Loaded only when there is one."""

import os

from cni_faasm.config.schema import Section
from cni_faasm.spec import inet

_MAX_RESOLV_CONF = 1 << 16
_KEYS = ("nameservers", "search", "options")


def read(
    section: Section | None, asked: Section | None, warnings: list[str]
) -> tuple[dict[str, object], bool]:
    """Return CNI's DNS object; each of the runtime's lists that is not empty wins.

    section: "dns" of the file. asked: runtimeConfig.dns, which has its own names. warnings:
    receives what is left out.
    Returns: (object, whether it holds against other sources: an empty list that the file states
    does, an empty object does not).
    """
    dns: dict[str, object] = {}
    is_told = False
    if section:
        _put(dns, "nameservers", section, "nameservers", warnings)
        domain = section.text("domain")
        if domain:
            if _is_word(domain):
                dns["domain"] = domain
            else:
                section.fault("domain", "a domain without blanks")
        _put(dns, "search", section, "search", warnings)
        _put(dns, "options", section, "options", warnings)
        is_told = bool(domain) or any(key in section.values for key in _KEYS)
    if asked:
        _put(dns, "nameservers", asked, "servers", warnings)
        _put(dns, "search", asked, "searches", warnings)
        _put(dns, "options", asked, "options", warnings)
        is_told = is_told or bool(dns)
    return dns, is_told


def _put(
    dns: dict[str, object], name: str, section: Section, key: str, warnings: list[str]
) -> None:
    texts = section.texts(key)
    if name != "nameservers":
        if not all(_is_word(text) for text in texts):
            section.fault(key, "texts without blanks")
        elif texts:
            dns[name] = texts
    elif not all(_is_server(text) for text in texts):
        section.fault(key, "IPv4 and IPv6 addresses")
    else:
        usable = _without_zones(texts, section.path + key, warnings)
        if usable:
            dns[name] = usable


def _without_zones(servers: list[str], where: str, warnings: list[str]) -> list[str]:
    """Return nameservers but for those with a zone, such as fe80::1%eth0.

    A zone is an interface of who wrote it; CNI knows addresses alone, and runtimes fail on it.
    """
    warnings.extend(
        f"{where}: nameserver {text} left out: its zone means nothing in a container"
        for text in servers
        if "%" in text
    )
    return [text for text in servers if "%" not in text]


def without_zones(dns: dict[str, object], where: str, warnings: list[str]) -> dict[str, object]:
    """Return a DNS object without nameservers that have a zone. warnings: receives which."""
    kept = dict(dns)
    servers = kept.pop("nameservers", None)
    if not isinstance(servers, list):
        return dns
    usable = _without_zones(servers, where, warnings)
    return {"nameservers": usable, **kept} if usable else kept


def _is_word(text: str) -> bool:
    return bool(text) and text.isprintable() and " " not in text


def _is_server(text: str) -> bool:
    try:
        inet.pack(text.partition("%")[0])  # fe80::1%eth0
    except ValueError:
        return False
    return text.isprintable() and " " not in text


def read_resolv_conf(path: str, warnings: list[str]) -> dict[str, object]:
    """Return the DNS object that a resolv.conf tells. Raises: OSError.

    warnings: receives what is left out.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        data = os.read(fd, _MAX_RESOLV_CONF)
    finally:
        os.close(fd)
    return without_zones(parse_resolv_conf(data), path, warnings)


def parse_resolv_conf(data: bytes) -> dict[str, object]:
    """Return the DNS object that the text of a resolv.conf tells, as resolv.conf(5) has it.

    A keyword stands at the start of its line. `domain` is an old name for a `search` of one
    entry, and of all these lines the last one counts; those of `options` join.
    """
    text = data.decode("utf-8", "replace")
    servers: list[str] = []
    names: dict[str, object] = {}
    options: list[str] = []
    for line in text.split("\n"):
        words = line.split()
        if len(words) < 2 or not line.startswith(words[0]):
            continue
        if words[0] == "nameserver" and _is_server(words[1]):
            servers.append(words[1])
        elif words[0] == "domain" and _is_word(words[1]):
            names = {"domain": words[1]}
        elif words[0] == "search":
            search = [word for word in words[1:] if _is_word(word)]
            names = {"search": search} if search else names
        elif words[0] == "options":
            options.extend(word for word in words[1:] if _is_word(word))
    return {
        **({"nameservers": servers} if servers else {}),
        **names,
        **({"options": options} if options else {}),
    }

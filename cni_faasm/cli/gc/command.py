"""Find and remove what belongs to nothing alive: records, leases, links, tables.

A runtime's GC knows which containers there are. Here that is found out: an attachment is
alive while its namespace is, or while its pair is; a lease without a record (host-local's)
while an interface of any namespace has its address. In doubt it stays.
"""

import time
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import typer

from cni_faasm.attachment import plan, record
from cni_faasm.cli import attachments, networks, output
from cni_faasm.cli.attachments import Attachment
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.gc.liveness import Living
from cni_faasm.config import loading as configuration
from cni_faasm.ipam.store import Store
from cni_faasm.link import kernel, veth
from cni_faasm.netlink import dumps, nft
from cni_faasm.netlink.nftables import Nftables
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.rules import guard_rules, limit_tables, nat, ports
from cni_faasm.spec.errors import CniError
from cni_faasm.verbs.gc import gc as collect

# A lease may be a moment older than the interface that gets its address.
YOUNG_S = 60.0
_NAMED = 5  # in one message
ALIAS = "cni-faasm"
TABLE = nat.table_name("")
GUARD_TABLE = guard_rules.table_name("")
LIMIT_TABLE = limit_tables.table_name("")
PORTS_TABLE = ports.table_name("")


class Place(NamedTuple):
    """One network's folders."""

    network: str
    state_dir: str
    data_dir: str


class Outcome(NamedTuple):
    """What was removed of a network, or would be; kept: what was left in doubt."""

    network: str
    removed: list[str]
    kept: list[str]


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only say what would be removed.")
    ] = False,
    every: Annotated[
        float,
        typer.Option("--every", metavar="SECONDS", min=0, help="Again and again, until ended."),
    ] = 0,
    conf_dir: networks.ConfDir = networks.CONF_DIR,
    state_dir: networks.StateDir = "",
    as_json: output.AsJson = False,
) -> None:
    """Remove leases, records, links and tables that belong to nothing alive.

    Alive is what has a namespace that somebody runs in or has mounted. What is in doubt
    stays, and is said.

    Examples:

        cni-faasm gc --dry-run

        cni-faasm gc

        cni-faasm gc --every 900
    """
    if every and as_json:
        raise ToolError("--every and --json exclude each other", "give one")
    while every:
        try:
            _once(conf_dir, state_dir, dry_run=dry_run, as_json=False, quiet=True)
        except (ToolError, OSError) as error:  # which the next time may do without
            output.note(str(error))
        time.sleep(every)
    _once(conf_dir, state_dir, dry_run=dry_run, as_json=as_json)


def _once(
    conf_dir: str, state_dir: str, *, dry_run: bool, as_json: bool, quiet: bool = False
) -> None:
    """Collect, and say what was. quiet: not that there was nothing. Raises: ToolError, OSError."""
    known = networks.installed(conf_dir)
    living = Living()
    with Netlink() as host:
        places = _places(known, networks.state_dirs(known, state_dir), host)
        outcomes = [_collect(place, living, host, dry_run) for place in places]
    if as_json:
        output.print_json(
            {"dryRun": dry_run, "networks": [outcome._asdict() for outcome in outcomes]}
        )
        return
    word = "would remove" if dry_run else "removed"
    for outcome in outcomes:
        for line in outcome.removed:
            output.say(f"{outcome.network}: {word} {line}")
        for line in outcome.kept:
            output.say(f"{outcome.network}: kept {line}")
    if not quiet and not any(outcome.removed for outcome in outcomes):
        typer.echo("nothing to remove")


def demand_none_attached(conf_dir: str) -> None:
    """Refuse to go on while containers are attached. Raises: ToolError that names them."""
    living = Living()
    known = networks.installed(conf_dir)
    dirs = networks.state_dirs(known, "")
    with Netlink() as host:
        alive = [
            one.called
            for one in attachments.every(dirs)
            if is_alive(one, living, host) or _is_doubtful(one, known, living, host)
        ]
    if alive:
        more = f" and {len(alive) - _NAMED} more" if len(alive) > _NAMED else ""
        raise ToolError(
            f"{output.count(len(alive), 'attachment')} would be stranded, for nobody could detach "
            f"them any more: {', '.join(alive[:_NAMED])}{more}",
            "stop their containers first, or leave them behind by --force",
        )


def _places(
    known: Sequence[networks.Network], state_dirs: Sequence[str], host: Netlink
) -> list[Place]:
    """Return every network that left a trace: a file, a folder, a link, a table."""
    found: dict[tuple[str, str], str] = {}
    for network in known:
        config = configuration.load_tolerant(network.document)
        if config.name:
            found[config.name, config.state_dir] = config.data_dir
    for state_dir in state_dirs:
        for name in record.networks(state_dir):
            found.setdefault((name, state_dir), networks.data_dir_of(known, name))
    names = {name for name, _ in found}
    for name in sorted(_traces(host) - names):
        found[name, state_dirs[0]] = configuration.DEFAULT_DATA_DIR
    return [Place(name, state_dir, data) for (name, state_dir), data in sorted(found.items())]


def _traces(host: Netlink) -> set[str]:
    """Return the networks that links and tables are named after."""
    found = set()
    for one in dumps.links(host, "veth"):
        words = one.alias.split()
        if len(words) >= 3 and words[0] == ALIAS:
            found.add(words[1])
    try:
        with Nftables() as netfilter:
            tables = [
                one
                for family in (nft.NFPROTO_INET, nft.NFPROTO_BRIDGE)
                for one in dumps.tables(netfilter, family)
            ]
    except (NetlinkError, OSError):
        return found  # a kernel without nf_tables has no tables
    found |= {
        table.name.removeprefix(prefix)
        for table in tables
        for prefix in (TABLE, GUARD_TABLE, LIMIT_TABLE, PORTS_TABLE)
        if table.name.startswith(prefix) and table.comment.startswith(ALIAS)
    }
    return found


def _collect(place: Place, living: Living, host: Netlink, dry_run: bool) -> Outcome:
    """Remove what is dead of one network. Raises: ToolError, CniError."""
    known = list(attachments.every([place.state_dir], place.network))
    alive = {(one.container_id, one.ifname) for one in known if is_alive(one, living, host)}
    torn = {(one.container_id, one.ifname) for one in known if one.promised is None}
    doubtful = torn & _traces_of_life(place, torn, living, host)
    kept = [
        f"attachment {container_id} {ifname}: its record in {place.state_dir} cannot be read, "
        "but it is alive"
        for container_id, ifname in sorted(doubtful)
    ]
    alive |= doubtful
    dead = {(one.container_id, one.ifname) for one in known} - alive
    prefix = f"{ALIAS} {place.network} "
    recorded = {one.promised.host_ifindex for one in known if one.promised}
    for found in dumps.links(host, "veth"):
        if not found.alias.startswith(prefix) or found.ifindex in recorded:
            continue
        if tuple(found.alias.removeprefix(prefix).split()) in doubtful:
            continue
        words = found.alias.removeprefix(prefix).split()
        if found.ifindex in living.peers:
            kept.append(
                f"link {found.name} ({found.alias}): it has no record in {place.state_dir}, "
                "but its namespace is alive"
            )
        elif len(words) == 2:
            dead.add((words[0], words[1]))
    if kept and not alive:
        # Containers whose records are elsewhere still need the network's rules.
        return Outcome(place.network, [], kept)
    dead |= _dead_leases(place, alive, living)
    document: dict[str, object] = {
        "name": place.network,
        "stateDir": place.state_dir,
        "dataDir": place.data_dir,
    }
    try:
        removed = collect(networks.request("GC", document), only=dead, dry_run=dry_run)
    except CniError as error:
        raise ToolError(f"{place.network}: {error.msg}", error.details) from None
    return Outcome(place.network, removed, kept)


def _traces_of_life(
    place: Place, wanted: set[tuple[str, str]], living: Living, host: Netlink
) -> set[tuple[str, str]]:
    """Return which attachments have a pair into a living namespace, or an address in one.

    For those whose record cannot be read: a kill or a full disk may have emptied it, and the
    container runs on.
    """
    if not wanted:
        return set()
    alive = set()
    aliases = {plan.alias(place.network, *identity): identity for identity in wanted}
    for found in dumps.links(host, "veth"):
        if found.alias in aliases and found.ifindex in living.peers:
            alive.add(aliases[found.alias])
    with Store(place.data_dir, place.network, create=False, lock=False) as store:
        for address, container_id, ifname, _ in store.leases():
            if address in living.addresses:
                alive |= {one for one in wanted if one == (container_id, ifname or one[1])}
    return alive


def _is_doubtful(
    one: Attachment, known: Sequence[networks.Network], living: Living, host: Netlink
) -> bool:
    """Say whether an attachment whose record cannot be read shows signs of life."""
    if one.promised is not None:
        return False
    place = Place(one.network, one.state_dir, networks.data_dir_of(known, one.network))
    return bool(_traces_of_life(place, {(one.container_id, one.ifname)}, living, host))


def is_alive(one: Attachment, living: Living, host: Netlink) -> bool:
    """Say whether an attachment's namespace is there, or its pair."""
    promised = one.promised
    if promised is None or not one.is_of_this_boot:
        return False
    try:
        with attachments.opened(one):
            return True
    except ToolError:
        pass
    try:
        outer = veth.find_outer(host, promised)
    except NetlinkError as error:
        raise kernel.refusal(error) from None
    return outer is not None and outer.ifindex in living.peers


def _dead_leases(place: Place, alive: set[tuple[str, str]], living: Living) -> set[tuple[str, str]]:
    """Return whose leases are of nobody: no record, and their address is nowhere."""
    dead: set[tuple[str, str]] = set()
    used: set[tuple[str, str]] = set()
    with Store(place.data_dir, place.network, create=False, lock=False) as store:
        for address, container_id, ifname, written in store.leases():
            identity = (container_id, ifname)
            if identity in alive or (not ifname and container_id in {name for name, _ in alive}):
                continue
            if address in living.addresses or time.time() - written < YOUNG_S:
                used.add(identity)
            else:
                dead.add(identity)
    return dead - used

"""Make and remove pools: namespaces faasmns1..N, each attached to one network.

    faasmnsK    the namespace, and the container id of its attachment
    faasmpK     the interface inside
    faasmK      the interface outside

Every attachment is an ADD of the plugin, done in this process: what takes the time is the
kernel, which makes one pair after the other whoever asks, so that more processes or
threads do not help (measured). What helps is that nothing is executed, and that new members are
made many at a time (verbs/add_many.py); where that fails, one after the other, and each that
cannot be made says why.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from cni_faasm.attachment import plan, record
from cni_faasm.attachment.undo import Undo
from cni_faasm.cli import attachments, networks
from cni_faasm.cli.attachments import Attachment
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.pool import machines, netfolder, resolvers
from cni_faasm.cli.pool import taken as pool_taken
from cni_faasm.cli.repair import mending
from cni_faasm.config import loading as configuration
from cni_faasm.config.loading import MAX_PREFIX
from cni_faasm.link import kernel, netns, veth
from cni_faasm.netlink import link
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec import inet, protocol
from cni_faasm.spec.errors import CniError
from cni_faasm.verbs import add_many
from cni_faasm.verbs.add import add
from cni_faasm.verbs.delete import delete

LOCK = "/run/cni-faasm-pool.lock"
IFNAMSIZ = 15  # without the NUL
# So many are made at once. More save nothing, and whoever waits for the first would wait longer.
AT_A_TIME = 32


class Names(NamedTuple):
    """The names of a pool's members."""

    prefix: str

    def namespace(self, number: int) -> str:
        return f"{self.prefix}ns{number}"

    def inner(self, number: int) -> str:
        return f"{self.prefix}p{number}"

    def outer(self, number: int) -> str:
        return f"{self.prefix}{number}"

    def number(self, namespace: str) -> int:
        """Return a member's number, 0 for a namespace that is none."""
        digits = namespace.removeprefix(f"{self.prefix}ns")
        if digits == namespace or not digits.isascii() or not digits.isdigit():
            return 0
        return 0 if digits.startswith("0") else int(digits)


class Member(NamedTuple):
    """One member of a pool: its number, whether its namespace is there, its attachments."""

    number: int
    namespace: bool
    attachments: list[Attachment]


class Outcome(NamedTuple):
    """What became of one member: made, completed, kept, failed; removed by pool down.

    promised: its plan, where it was made just now.
    """

    number: int
    action: str
    address: str = ""
    error: str = ""
    remedy: str = ""
    promised: plan.Plan | None = None


def names_of(prefix: str, most: int) -> Names:
    """Return the names of a pool. Raises: ToolError when they cannot be interfaces' names."""
    names = Names(prefix)
    if not protocol.is_name(prefix) or len(prefix) > MAX_PREFIX:
        raise ToolError(
            f"--prefix {prefix!r}: a letter or digit, then letters, digits, "
            f'"_", "." or "-", at most {MAX_PREFIX} in all'
        )
    if len(names.inner(most)) > IFNAMSIZ:
        raise ToolError(
            f"--prefix {prefix!r}: {names.inner(most)} is longer than an interface's name may "
            f"be, which is {IFNAMSIZ}",
            "choose a shorter prefix",
        )
    return names


@contextlib.contextmanager
def locked(say: Callable[[str], None]) -> Iterator[None]:
    """Keep other pool commands out: two would make the same namespaces."""
    fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another cni-faasm pool command")
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def members(names: Names, state_dirs: Sequence[str]) -> list[Member]:
    """Return what there is of a pool, by number."""
    attached: dict[int, list[Attachment]] = {}
    for one in attachments.every(state_dirs):
        number = names.number(one.container_id)
        if number:
            attached.setdefault(number, []).append(one)
    try:
        listed = {names.number(name) for name in os.listdir(netfolder.FOLDER)} - {0}
    except FileNotFoundError:
        listed = set()
    return [
        Member(number, number in listed, attached.get(number, []))
        for number in sorted(listed | attached.keys())
    ]


class Builder:
    """Bring up the members of a pool, one by one."""

    def __init__(self, names: Names, network: networks.Network) -> None:
        self.names = names
        # The outer end gets the number of the inner one when the prefixes agree.
        document = {k: v for k, v in network.document.items() if k.lower() != _PREFIX_KEY.lower()}
        self.document: dict[str, object] = {**document, _PREFIX_KEY: names.prefix}
        config = configuration.load(self.document)
        self.slot = config.slot
        self._may_make_many = add_many.is_possible(config)
        self.network = network.name
        self.state_dir = config.state_dir
        self.servers = resolvers.choose(config.dns, config.range_sets)
        self.warnings: list[str] = []
        self._own_fd = netns.open_own()
        self._host = Netlink()
        self._ahead: dict[int, Future[add_many.End]] = {}
        self._thread = ThreadPoolExecutor(1)
        netfolder.prepare()

    def demand_free(self, size: int, state_dirs: Sequence[str]) -> None:
        """Refuse names that somebody else has. Raises: ToolError."""
        known = members(self.names, list(dict.fromkeys((*state_dirs, self.state_dir))))
        attached = {member.number: member.attachments for member in known}
        wanted = [_wanted(self.names, n, attached.get(n, [])) for n in range(1, size + 1)]
        pool_taken.demand_free(wanted, self.names.prefix)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        for number in list(self._ahead):
            self._unmake(number)
        self._host.close()
        os.close(self._own_fd)

    def up_many(self, numbers: Sequence[int]) -> list[Outcome]:
        """Bring up members, new ones all at once. At most AT_A_TIME; never raises CniError."""
        made: dict[int, Outcome] = {}
        new = [one for one in numbers if one in self._ahead or self._is_new(one)]
        if len(new) > 1 or not self._ahead.keys().isdisjoint(new):
            # What is wrong with which of them, making one after the other tells.
            with contextlib.suppress(CniError, NetlinkError, ToolError, OSError):
                made = self._make_many(new)
        return [made.get(number) or self.up(number) for number in numbers]

    def make_ahead(self, numbers: Sequence[int]) -> None:
        """Have the namespaces of new members made by a thread, for `up_many` to attach later."""
        for number in filter(self._is_new, numbers):
            self._ahead[number] = self._thread.submit(self._found, number)

    def _found(self, number: int) -> add_many.End:
        """Make a member's namespace and what commands see in it; return it open. Raises: OSError."""
        name = self.names.namespace(number)
        if self.servers.text:
            resolvers.put(name, self.servers.text)
        return netfolder.add_open(name, self._own_fd)

    def _is_new(self, number: int) -> bool:
        """Say whether a member can be made with others: there is nothing of it."""
        if not self._may_make_many:
            return False
        name, ifname = self.names.namespace(number), self.names.inner(number)
        if os.path.lexists(netfolder.path_of(name)):
            return False
        return not record.exists(self.state_dir, self.network, name, ifname)

    def _make_many(self, numbers: Sequence[int]) -> dict[int, Outcome]:
        undo, undo_add = Undo(), Undo()
        ends: list[add_many.End] = []
        try:
            for number in numbers:
                undo.push("remove the namespace", self._unmake, number)
            for number in numbers:
                ahead = self._ahead.get(number)
                ends.append(self._found(number) if ahead is None else ahead.result())
                self._ahead.pop(number, None)
            requests = [self._request("ADD", number) for number in numbers]
            plans = add_many.add_many(requests, undo_add, self.warnings, ends)
            for one in plans:
                self._complete(one)
        except BaseException as cause:
            undo_add.roll_back(cause)
            undo.roll_back(cause)
            raise
        finally:
            for end in ends:
                end.close()
        return {
            number: Outcome(number, "made", _addresses(one), promised=one)
            for number, one in zip(numbers, plans, strict=True)
        }

    def _unmake(self, number: int) -> None:
        ahead = self._ahead.pop(number, None)
        if ahead is not None and not ahead.cancel() and ahead.exception() is None:
            ahead.result().close()
        _remove_namespace(self.names.namespace(number))

    def up(self, number: int) -> Outcome:
        """Bring up one member, or complete what is missing of it. Never raises CniError."""
        try:
            return self._up(number)
        except CniError as error:
            return Outcome(number, "failed", error=error.msg, remedy=error.details)
        except NetlinkError as error:
            refused = kernel.refusal(error)
            return Outcome(number, "failed", error=refused.msg, remedy=refused.details)
        except ToolError as error:
            return Outcome(number, "failed", error=str(error), remedy=error.remedy)
        except OSError as error:
            return Outcome(number, "failed", error=f"{error.filename}: {error.strerror}")

    def _up(self, number: int) -> Outcome:
        name = self.names.namespace(number)
        if netfolder.exists(name):
            return self._attach(number, fresh=False)
        netfolder.add(name, self._own_fd)
        try:
            return self._attach(number, fresh=True)
        except BaseException:
            # What cannot be attached is of no use, and its name is in the way.
            _remove_namespace(name)
            raise

    def _attach(self, number: int, *, fresh: bool) -> Outcome:
        name, ifname = self.names.namespace(number), self.names.inner(number)
        done = "made" if fresh else "kept"
        if self.servers.text and resolvers.put(name, self.servers.text) and not fresh:
            done = "completed"
        one = attachments.load(self.state_dir, self.network, name, ifname)
        if one.fields:
            kept = None if fresh else self._keep(one)
            if kept is not None:
                if one.promised is not None and self._complete(one.promised):
                    done = "completed"
                address = _addresses(one.promised)
                return Outcome(number, done if kept == "kept" else kept, address)
            # Of a namespace that has gone, or half made: nothing of it can be used.
            delete(self._request("DEL", number), self.warnings, detach=False)
        undo = Undo()
        result = add(self._request("ADD", number), undo, self.warnings)
        try:
            promised = attachments.load(self.state_dir, self.network, name, ifname).promised
            if promised is not None:
                self._complete(promised)
        except BaseException as cause:
            undo.roll_back(cause)
            raise
        addresses = ", ".join(inet.unpack(ip.address) for ip in result.ips)
        return Outcome(number, "made" if fresh else "completed", addresses)

    def _complete(self, promised: plan.Plan) -> bool:
        """Make what the network's `slot` wants inside; say whether something was missing."""
        if self.slot is None:
            return False
        return machines.ensure(promised.netns, self._own_fd, promised, self.slot)

    def drifts(self, one: Attachment) -> list[attachments.Drift]:
        """Return what of a member is not as promised, its machine's part included.

        Raises: CniError, NetlinkError.
        """
        found = attachments.look(one, self._host)
        if found or self.slot is None or one.promised is None:
            return found
        return machines.drifts(one.promised.netns, self._own_fd, self.slot)

    def _keep(self, one: Attachment) -> str | None:
        """Leave alone an attachment that is whole, mend one that is not.

        Returns: "kept", "completed", or None when only a new ADD helps.
        """
        try:
            with attachments.opened(one) as inner:
                inner.execute([link.set_link(veth.LOOPBACK_IFINDEX, up=True)])
                if not attachments.drifts_of(one, self._host, inner):
                    return "kept"
                left = mending.mend(one, self._host, inner).left
        except ToolError:
            return None
        return None if left else "completed"

    def _request(self, verb: str, number: int) -> protocol.Request:
        name = self.names.namespace(number)
        path = netfolder.path_of(name)
        return networks.request(verb, self.document, name, self.names.inner(number), path)


_PREFIX_KEY = "hostInterfacePrefix"


def _remove_namespace(name: str) -> None:
    resolvers.remove(name)
    netfolder.remove(name)


def _wanted(names: Names, number: int, attached: Sequence[Attachment]) -> pool_taken.Wanted:
    return pool_taken.Wanted(
        names.namespace(number), names.inner(number), names.outer(number), attached
    )


def foreign(names: Names, member: Member) -> list[str]:
    """Return what shows that a namespace is somebody's own though its name is a member's."""
    if member.attachments or not netfolder.exists(names.namespace(member.number)):
        return []
    return pool_taken.foreign_interfaces(names.namespace(member.number), names.inner(member.number))


def _addresses(promised: plan.Plan | None) -> str:
    return ", ".join(inet.unpack(item.address) for item in promised.addresses) if promised else ""


def demand_one_network(names: Names, size: int, network: str, conf_dir: str) -> None:
    """Refuse to make a pool of which members are attached to another network already.

    Raises: ToolError that names that one, and says how to go on.
    """
    known = networks.installed(conf_dir)
    attached: dict[str, list[str]] = {}
    with Netlink() as host:
        for member in members(names, networks.state_dirs(known, "")):
            if member.number <= size and member.namespace:
                named = {one.network for one in member.attachments}
                for other in (named or {network_of(names, member, host)}) - {network, ""}:
                    attached.setdefault(other, []).append(names.namespace(member.number))
    for other, namespaces in attached.items():
        remedy = f"--network {other} goes on with that one"
        if other not in {one.name for one in known}:
            remedy = (
                f"{conf_dir} has no file of {other!r}: put it back, or say where it is by --conf, "
                "to go on with that one"
            )
        raise ToolError(
            f"{', '.join(namespaces[:5])}: attached to the network {other!r}, not to {network!r}",
            f"{remedy}; --prefix makes a pool beside it; pool down removes it",
        )


def network_of(names: Names, member: Member, host: Netlink) -> str:
    """Return the network that the host's end of a member says, "" when there is none of ours."""
    found = veth.find(host, name=names.outer(member.number))
    words = found.alias.split() if found is not None else []
    ours = words[:1] == ["cni-faasm"] and words[2:3] == [names.namespace(member.number)]
    return words[1] if ours else ""

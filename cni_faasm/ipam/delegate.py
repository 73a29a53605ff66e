"""Let another IPAM plugin lease the addresses (CNI specification, section 4, "Delegation").

The plugin that `ipam.type` names is looked for in CNI_PATH and executed with our variables and
our configuration. Our lock is never held meanwhile: the plugin may be host-local, which takes
the same one.
"""

import os
import posix
import select
from collections.abc import Iterable

from cni_faasm.attachment import accepted, plan_fields, record
from cni_faasm.attachment.plan import HOST_LINK_LOCAL, Plan, PlannedAddress
from cni_faasm.config import dns
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.spec import inet, jsonio
from cni_faasm.spec.errors import (
    DECODING_FAILURE,
    INVALID_ENVIRONMENT,
    IO_FAILURE,
    IPAM_FAILED,
    TRY_AGAIN,
    UNSUPPORTED_FIELD,
    CniError,
)
from cni_faasm.spec.protocol import Request
from cni_faasm.spec.results import Result, parse_result

MAX_ANSWER_BYTES = 1 << 20
# The gateway of an address that came without one; any will do on a link of two.
LINK_LOCAL = {4: bytes((169, 254, 1, 1)), 16: HOST_LINK_LOCAL}
# What a caller's or our own loader had to know, and nobody executed by us.
_LOADER_VARIABLES = (b"_PYI_", b"_MEI")
_SIGPIPE = 13
_SIGKILL = 9


def demand_path(request: Request) -> None:
    """Refuse a call that must execute a plugin and does not say where plugins are.

    Raises: CniError 4.
    """
    if not request.path:
        raise CniError(
            INVALID_ENVIRONMENT,
            "missing: CNI_PATH",
            "ipam.type names a plugin, which is executed from the folders in CNI_PATH",
        )


def lease(request: Request, config: NetworkConfig, promised: Plan, warnings: list[str]) -> None:
    """Have the plugin ADD, and put what it gave into the plan.

    warnings: receives what is left out of it.
    Raises: CniError with the plugin's own code and message; 108 when its answer is none.
    """
    name = config.ipam_plugin
    answer = call("ADD", name, request.document, request, config.ipam_timeout_ms)
    try:
        result = parse_result(_object(answer))
    except CniError as error:
        raise _failed(name, f"its answer to ADD is no result: {error.msg}") from None
    if not result.ips:
        raise _failed(name, "its answer to ADD has no address")
    _fill(promised, result)
    if result.dns and not config.dns_is_told:
        promised.dns = dns.without_zones(result.dns, f"IPAM plugin {name!r}", warnings)
    if promised.ip_masq:
        for one in result.ips:
            if one.prefix_len == len(one.address) * 8:
                raise CniError(
                    UNSUPPORTED_FIELD,
                    f"ipMasq: IPAM plugin {name!r} gave {inet.cidr(one.address, one.prefix_len)}, "
                    "and a network is masqueraded by its subnets",
                    "have the plugin tell the subnet's prefix length, or set ipMasq to false",
                )


def _fill(promised: Plan, result: Result) -> None:
    promised.addresses = [
        PlannedAddress(one.address, one.gateway or LINK_LOCAL[len(one.address)])
        for one in result.ips
    ]
    for one in result.ips:
        if one.gateway is not None and len(one.gateway) != len(one.address):
            text = inet.cidr(one.address, one.prefix_len)
            raise _failed(promised.ipam_plugin, f"its gateway of {text} is of another family")
    for route in result.routes:
        if route.gateway is not None and len(route.gateway) != len(route.dst):
            text = inet.cidr(route.dst, route.prefix_len)
            raise _failed(promised.ipam_plugin, f"its route to {text} is by another family")
    promised.routes = result.routes
    for one in result.ips:
        subnet = inet.network(one.address, one.prefix_len), one.prefix_len
        if one.prefix_len < len(one.address) * 8 and subnet not in promised.ranges:
            promised.ranges.append(subnet)


def give_up(request: Request, config: NetworkConfig) -> None:
    """Have the plugin DEL after its ADD or ours has failed. Raises: CniError."""
    call("DEL", config.ipam_plugin, request.document, request, config.ipam_timeout_ms)


def release(
    request: Request,
    config: NetworkConfig,
    network: str,
    identity: tuple[str, str],
    promised: Plan | None,
) -> None:
    """Have the plugin that leased an attachment's addresses DEL them.

    With the configuration of that time when today's names another plugin, or is not one for
    DEL. identity: (container id, ifname). Raises: CniError.
    """
    name = config.ipam_plugin if promised is None else promised.ipam_plugin
    document = request.document
    if request.verb != "DEL" or config.ipam_plugin != name:
        document = _document_then(config, network, identity, name)
    call(
        "DEL",
        name,
        document,
        request,
        config.ipam_timeout_ms,
        identity=identity,
        netns=request.netns if request.verb == "DEL" else "",
    )


def _document_then(
    config: NetworkConfig, network: str, identity: tuple[str, str], name: str
) -> dict[str, object]:
    """Return the configuration that ADD was given, else as much of it as is known."""
    fields = record.read(config.state_dir, network, *identity) or {}
    text = fields.get(accepted.KEY)
    try:
        document = jsonio.loads(text.encode()) if isinstance(text, str) and text else None
    except CniError:
        document = None
    if isinstance(document, dict):
        return document
    return {"cniVersion": config.cni_version, "name": network, "ipam": {"type": name}}


def release_dead(
    request: Request, config: NetworkConfig, dead: Iterable[tuple[str, str]]
) -> list[str]:
    """Release what attachments of an earlier boot held. Returns: what could not be, and why."""
    warnings = []
    for identity in dead:
        promised = plan_fields.load(config.state_dir, config.name, *identity)
        try:
            if promised is not None:
                release(request, config, config.name, identity, promised)
            record.remove(config.state_dir, config.name, *identity)
        except CniError as error:
            warnings.append(f"{identity[0]} of an earlier boot keeps its address: {error.msg}")
    return warnings


def drifts(request: Request, promised: Plan, timeout_ms: int) -> list[tuple[str, str, str]]:
    """Have the plugin CHECK. Returns: (what, expected, found) when it is not content."""
    try:
        call("CHECK", promised.ipam_plugin, request.document, request, timeout_ms)
    except CniError as error:
        text = f"{error.msg}; {error.details}" if error.details else error.msg
        return [(f"IPAM plugin {promised.ipam_plugin}", "content with its leases", text)]
    return []


def pass_on(request: Request, config: NetworkConfig) -> None:
    """Have the plugin do the verb that we do, GC or STATUS. Raises: CniError."""
    call(request.verb, config.ipam_plugin, request.document, request, config.ipam_timeout_ms)


def call(
    verb: str,
    name: str,
    document: dict[str, object],
    request: Request,
    timeout_ms: int,
    *,
    identity: tuple[str, str] | None = None,
    netns: str | None = None,
) -> bytes:
    """Execute the plugin for one verb; its stderr is ours.

    identity, netns: of another attachment than the request's.
    Returns: what it printed. Raises: CniError with its code; 108, 11 when it was ended.
    """
    demand_path(request)
    path = _find(name, request.path)
    status, answer = _execute(
        path, _environment(verb, request, identity, netns), jsonio.dumps(document), timeout_ms
    )
    if status is None:
        raise CniError(
            TRY_AGAIN,
            f"IPAM plugin {name!r} did not finish {verb} within {timeout_ms} ms and was ended",
            "see what it waits for; ipamTimeout sets how long it may take",
        )
    if status == 0:
        return answer
    try:
        fault = _object(answer)
    except CniError:
        how = f"ended with status {status}" if status > 0 else f"was ended by signal {-status}"
        raise _failed(name, f"{verb} {how} and without an error document") from None
    code, details = jsonio.whole(fault.get("code")), fault.get("details")
    raise CniError(
        code if code is not None and code > 0 else IPAM_FAILED,
        f"IPAM plugin {name!r}: {fault.get('msg') or f'{verb} failed'}",
        details if isinstance(details, str) else "",
    )


def _failed(name: str, what: str) -> CniError:
    return CniError(
        IPAM_FAILED,
        f"IPAM plugin {name!r}: {what}",
        "its own words, if any, are on the runtime's standard error",
    )


def _object(text: bytes) -> dict[str, object]:
    document = jsonio.loads(text)
    if not isinstance(document, dict):
        raise CniError(DECODING_FAILURE, "a JSON object is expected")
    return document


def _find(name: str, search_path: str) -> str:
    """Return the executable of a plugin. Raises: CniError 108."""
    for folder in search_path.split(":"):
        path = f"{folder}/{name}"
        if folder.startswith("/") and os.access(path, os.X_OK):
            return path
    raise CniError(
        IPAM_FAILED,
        f"ipam.type: there is no plugin {name!r} in CNI_PATH ({search_path})",
        "install it there, or correct ipam.type",
    )


def _environment(
    verb: str, request: Request, identity: tuple[str, str] | None, netns: str | None
) -> dict[bytes, bytes]:
    found = {
        key: value for key, value in posix.environ.items() if not key.startswith(_LOADER_VARIABLES)
    }
    if identity is not None and identity != (request.container_id, request.ifname):
        found.pop(b"CNI_ARGS", None)
    container_id, ifname = identity or (request.container_id, request.ifname)
    for key, text in (
        (b"CNI_COMMAND", verb),
        (b"CNI_CONTAINERID", container_id),
        (b"CNI_IFNAME", ifname),
        (b"CNI_NETNS", request.netns if netns is None else netns),
        (b"CNI_PATH", request.path),
    ):
        found[key] = text.encode("utf-8", "surrogateescape")
    return found


def _execute(
    path: str, environment: dict[bytes, bytes], stdin: bytes, timeout_ms: int
) -> tuple[int | None, bytes]:
    """Run a program with a file in memory for stdin and one for stdout.

    Not with pipes: who hangs, or leaves a child behind that holds them, must not hold us.
    Returns: (status, stdout); a negative status is a signal, None says that it was ended.
    """
    given = os.memfd_create("stdin", os.MFD_CLOEXEC)
    printed = os.memfd_create("stdout", os.MFD_CLOEXEC)
    try:
        while stdin:
            stdin = stdin[os.write(given, stdin) :]
        os.lseek(given, 0, 0)
        try:
            pid = os.posix_spawn(
                path,
                [path],
                environment,
                file_actions=(
                    (os.POSIX_SPAWN_DUP2, given, 0),
                    (os.POSIX_SPAWN_DUP2, printed, 1),
                ),
                setpgroup=0,
                setsigmask=(),  # ours is full of what must not disturb a verb
                setsigdef=(_SIGPIPE,),
            )
        except OSError as error:
            raise CniError(
                IO_FAILURE, f"cannot execute IPAM plugin {path}: {error.strerror}"
            ) from None
        has_ended = False
        try:
            has_ended = _wait(pid, timeout_ms)
        finally:
            if not has_ended:
                os.kill(-pid, _SIGKILL)
            waited = os.waitpid(pid, 0)[1]
        status = os.waitstatus_to_exitcode(waited) if has_ended else None
        return status, os.pread(printed, MAX_ANSWER_BYTES, 0)
    finally:
        os.close(given)
        os.close(printed)


def _wait(pid: int, timeout_ms: int) -> bool:
    """Say whether a child has ended within the time."""
    child = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(child, select.POLLIN)
        return bool(poll.poll(timeout_ms))
    finally:
        os.close(child)

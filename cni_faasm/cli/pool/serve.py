"""The command `cni-faasm pool serve`."""

import contextlib
import os
import resource
import socket
import sys
from typing import Annotated

import typer

from cni_faasm.cli import networks, output
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.pool import making, netfolder
from cni_faasm.cli.pool.resting import Resting
from cni_faasm.cli.pool.server import Server, Wishes
from cni_faasm.cli.pool.slotfiles import SlotFiles

MAX_MEMBERS = 65_536
# As long as Linux keeps a connection in TIME_WAIT.
REST_S = 60.0


def serve(
    free: Annotated[
        int, typer.Argument(metavar="N", min=1, max=MAX_MEMBERS, help="How many to keep free.")
    ],
    most: Annotated[
        int,
        typer.Option(
            "--most", metavar="M", min=1, max=MAX_MEMBERS, help="At most so many free and claimed."
        ),
    ] = MAX_MEMBERS,
    reserve: Annotated[
        int | None,
        typer.Option(
            "--reserve",
            metavar="R",
            min=0,
            max=MAX_MEMBERS,
            help="So many more stand by to take a place; else a quarter of N, 1 to 64.",
        ),
    ] = None,
    rest: Annotated[
        float,
        typer.Option("--rest", metavar="S", min=0, help="Seconds before an address is used again."),
    ] = REST_S,
    look: Annotated[
        float,
        typer.Option(
            "--look", metavar="S", min=1, help="Look at each free slot in so many seconds."
        ),
    ] = 30.0,
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="P", help="The pool's name; names are P1, Pp1, Pns1.")
    ] = "faasm",
    network: Annotated[
        str, typer.Option("--network", metavar="NAME", help="Attach to this network.")
    ] = "",
    conf: Annotated[
        str, typer.Option("--conf", metavar="FILE", help="Attach to the network in this file.")
    ] = "",
    conf_dir: networks.ConfDir = networks.CONF_DIR,
    as_json: output.AsJson = False,
) -> None:
    """Keep N slots of a pool free for those who claim them (docs/slots.md), until it is ended.

    What is returned, what its ended owner had, and what has drifted is taken away, and made as
    new. It may be killed at any moment: slots can be claimed and returned without it, and the
    next one goes on from there. What there is of the pool is taken over, members of pool up
    included; pool down takes all away.

    Examples:

        cni-faasm pool serve 8

        cni-faasm pool serve 100 --most 1000 --rest 120 --network edge --prefix edge
    """
    names = making.names_of(prefix, MAX_MEMBERS)
    chosen = networks.find(network, conf, conf_dir)
    files = SlotFiles(prefix)
    files.make()
    lock = files.lock()
    if lock < 0:
        raise ToolError(f"another pool serve keeps the pool {prefix!r}", "one is enough")
    _raise_limit()

    def tell(event: str, number: int | None, reason: str) -> None:
        if event == "ready":
            _notify(b"READY=1")
        if as_json:
            output.print_line({"event": event, "slot": number, "reason": reason})
        else:
            name = "" if number is None else f"{names.namespace(number)}: "
            output.say(f"{output.clock()} {name}{event}: {reason}")

    with making.locked(output.note):
        making.demand_one_network(names, MAX_MEMBERS, chosen.name, conf_dir)
        builder = making.Builder(names, chosen)
    resting = Resting(files, rest)
    try:
        if builder.servers.warning:
            output.note(f"warning: {builder.servers.warning}")
        os.makedirs(netfolder.FOLDER, exist_ok=True)
        kept = min(max(1, free // 4), 64) if reserve is None else reserve
        _yield_to_claimers()
        Server(builder, files, resting, Wishes(free, most, kept, look), tell).run()
    finally:
        resting.close()
        builder.close()
        os.close(lock)


def _raise_limit() -> None:
    """Allow a descriptor for each owner of a slot."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _yield_to_claimers() -> None:
    """Run beside those who claim and return, and not in their stead when they wake us."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    # The thread that makes slots lets the one that offers them run as soon.
    sys.setswitchinterval(0.0005)


def _notify(text: bytes) -> None:
    """Tell systemd, where it has started us (sd_notify(3))."""
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
        try:
            one.sendto(text, address)
        except OSError as error:
            output.note(f"cannot tell systemd: {error}")

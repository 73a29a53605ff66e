"""The commands of cni-faasm.

Exit status: 0 done, 1 it could not be done or something is wrong, 2 the command line is wrong,
3 it could not be looked whether something is. With --json, one document on stdout and nothing else
there, on failure, too; messages go to stderr. docs/json.md tells what is in it.
"""

import os
import platform
import signal
import sys
from collections.abc import Iterable
from typing import Annotated, Any, NoReturn

import typer

from cni_faasm import __version__
from cni_faasm.cli import migrate, networks, output
from cni_faasm.cli.check import command as checking
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.firewall_trust import command as firewall_trust
from cni_faasm.cli.gc import command as collecting
from cni_faasm.cli.install import command as installer
from cni_faasm.cli.install import node
from cni_faasm.cli.metrics.command import metrics
from cni_faasm.cli.network_check import command as network_check
from cni_faasm.cli.network_check import iperf_servers
from cni_faasm.cli.output import AsJson
from cni_faasm.cli.pool import commands as pool_commands
from cni_faasm.cli.rates import apply as applying
from cni_faasm.cli.rates import set_rate as rates
from cni_faasm.cli.repair import command as repairing
from cni_faasm.cli.status.command import status
from cni_faasm.cli.validate import command as validate
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec import protocol
from cni_faasm.spec.errors import CniError

DEBUG = "CNI_FAASM_DEBUG"
# Typer has no name of its own for it.
UsageError: Any = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="cni-faasm",
    help="Look after hosts whose containers get their network from the CNI plugin faasm.\n\n"
    "Examples:\n\n    cni-faasm pool up 3\n\n    cni-faasm status --watch\n\n"
    "    cni-faasm validate /etc/cni/net.d/10-faasm.conflist",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(pool_commands.app, name="pool")
app.command()(status)
app.command()(checking.check)
app.command()(repairing.repair)
app.command()(rates.set_rate)
app.command()(applying.apply)
app.command()(collecting.gc)
app.command()(metrics)
app.command()(validate.validate)
app.command()(migrate.migrate)
app.command("firewall-trust")(firewall_trust.firewall_trust)
app.command("network-check")(network_check.network_check)
app.command("iperf-servers")(iperf_servers.iperf_servers)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cni-faasm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_version, is_eager=True, help="Say which version this is."
        ),
    ] = False,
) -> None:
    """Take the options that come before a command."""


Destdir = Annotated[
    str,
    typer.Option(
        "--destdir",
        metavar="DIR",
        help="Use DIR instead of the root folder, as for an image or a package.",
    ),
]


def main() -> NoReturn:
    """Run one command and exit."""
    try:
        status = app(standalone_mode=False)
    except UsageError as error:
        error.show()
        output.print_failure(error.format_message(), "")
        sys.exit(2)
    except ToolError as error:
        _fail(str(error), error.remedy)
    except CniError as error:
        _fail(error.msg, error.details)
    except NetlinkError as error:
        from cni_faasm.link import kernel

        refused = kernel.refusal(error)
        _fail(refused.msg, refused.details)
    except PermissionError as error:
        _fail(_os_error(error), "" if os.geteuid() == 0 else "run it as root")
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except OSError as error:
        _fail(_os_error(error))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        _fail(
            f"internal error: {type(error).__name__}: {error}",
            f"at {_place(error)}; please report it. {DEBUG}=1 shows the whole way there",
        )
    finally:
        # All is done: a signal from here on would only show how an interpreter ends.
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is signal.default_int_handler:
                signal.signal(number, signal.SIG_DFL)
    sys.exit(status if isinstance(status, int) else 0)


def _place(error: Exception) -> str:
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


@app.command()
def version(as_json: AsJson = False) -> None:
    """Say which version this is, and which CNI versions its plugin speaks.

    Examples:

        cni-faasm version

        cni-faasm version --json
    """
    if as_json:
        output.print_json(
            {
                "version": __version__,
                "cniVersions": list(protocol.SUPPORTED_VERSIONS),
                "pythonVersion": platform.python_version(),
                "bundle": bool(getattr(sys, "frozen", False)),
            }
        )
        return
    typer.echo(f"cni-faasm {__version__}")
    typer.echo(f"CNI versions: {', '.join(protocol.SUPPORTED_VERSIONS)}")


@app.command()
def install(destdir: Destdir = "/", as_json: AsJson = False) -> None:
    """Install this bundle: plugin, tool and a first network configuration.

    A configuration that you changed is left as it is. Installing again is an update.

    Examples:

        cni-faasm install

        cni-faasm install --destdir /tmp/image
    """
    _show(installer.install(installer.bundle_folder(), destdir), as_json)
    if os.path.realpath(destdir) == "/":
        for text in firewall_trust.refused_to_installed():
            output.note(text)


@app.command()
def uninstall(
    destdir: Destdir = "/",
    force: Annotated[
        bool, typer.Option("--force", help="Also while containers are attached.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", "-n", help="Only look whether containers are attached."),
    ] = False,
    conf_dir: networks.ConfDir = networks.CONF_DIR,
    as_json: AsJson = False,
) -> None:
    """Remove what install put there, and nothing else.

    Address leases, attachment records, running containers and a configuration that you
    changed stay. Without the plugin nobody can detach a container, so while some are attached
    --force is needed.

    Examples:

        cni-faasm uninstall

        cni-faasm uninstall --force

        cni-faasm uninstall --destdir /tmp/image --json
    """
    if not force and os.path.realpath(destdir) == "/":
        collecting.demand_none_attached(conf_dir)
    commands = firewall_trust.left_behind(conf_dir) if os.path.realpath(destdir) == "/" else []
    steps = () if dry_run else installer.uninstall(destdir)
    _show(steps, as_json, "it can be removed" if dry_run else "nothing was installed")
    for command in commands:
        output.note(f"firewalld still lets a range pass that may be another's now: {command}")


@app.command("node-install")
def node_install(
    config: Annotated[str, typer.Option(metavar="DIR", help="Its files go to /etc/cni/net.d.")],
    owner: Annotated[str, typer.Option(envvar="POD_UID", help="A name no other pod has.")],
    host: Annotated[str, typer.Option(metavar="DIR", help="Where the node's folders are.")] = (
        "/host"
    ),
    once: Annotated[bool, typer.Option("--once", help="Install and end.")] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="Only say whether all is installed.")
    ] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Install on a cluster's node from a pod, keep it so, and take it away on SIGTERM.

    This is what deploy/kubernetes runs on every node; docs/cluster.md tells about it. When a
    newer pod has installed on the same node, SIGTERM takes nothing away. --json prints a line
    for each step. A node without the plugin portmap gets lists without it.

    Examples:

        cni-faasm node-install --config /config --owner "$POD_UID"

        cni-faasm node-install --config /config --host /host --once
    """
    place = node.Node(installer.bundle_folder(), config, host, owner)
    if probe:
        faults = place.faults()
        if faults:
            raise ToolError("; ".join(faults), "the keeper of this node puts it back in a moment")
        typer.echo("all is installed")
        return
    for step in place.install() if once else node.wait(place, interval):
        if as_json:
            output.print_line(step._asdict())
        else:
            _say(step)


def _show(
    steps: Iterable[installer.Step], as_json: bool, empty: str = "nothing was installed"
) -> None:
    if as_json:
        output.print_json({"steps": [step._asdict() for step in steps]})
        return
    nothing = True
    for step in steps:
        nothing = False
        _say(step)
    if nothing:
        typer.echo(empty)


def _say(step: installer.Step) -> None:
    typer.echo(f"{step.action:<9} {step.path}" + (f" ({step.note})" if step.note else ""))


def _os_error(error: OSError) -> str:
    words = error.strerror or str(error)
    return f"{error.filename}: {words}" if error.filename else words


def _fail(message: str, remedy: str = "") -> NoReturn:
    output.complain(f"cni-faasm: {message}" + (f"\n{remedy}" if remedy else ""))
    output.print_failure(message, remedy)
    sys.exit(3 if output.command() in output.LOOKING else 1)

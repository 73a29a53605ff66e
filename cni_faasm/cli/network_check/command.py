"""The command network-check: rules and throughput of shaped namespaces, judged."""

import os
from typing import Annotated

import typer

from cni_faasm.cli import networks, output
from cni_faasm.cli.fault import ToolError

DEFAULT_SECONDS = 10
DEFAULT_PORT = 5201


def network_check(
    server: Annotated[
        str, typer.Argument(metavar="SERVER", help="Address of a machine that runs iperf3 servers.")
    ],
    namespaces: Annotated[
        str,
        typer.Option(
            "--namespaces",
            "-n",
            metavar="LIST",
            help="Numbers of the pool and names, like 1-3,7,web. Without it the first three.",
            show_default=False,
        ),
    ] = "",
    seconds: Annotated[
        int, typer.Option("--seconds", "-t", min=1, max=3600, help="How long each phase measures.")
    ] = DEFAULT_SECONDS,
    port: Annotated[
        int,
        typer.Option(
            "--port",
            min=1,
            max=65535,
            help="The server's first port; one more for each further namespace.",
        ),
    ] = DEFAULT_PORT,
    html: Annotated[
        str,
        typer.Option(
            "--html", metavar="FILE", help="Write a page with charts.", show_default=False
        ),
    ] = "",
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="P", help="The pool's namespaces are Pns1, Pns2...")
    ] = "faasm",
    conf_dir: networks.ConfDir = networks.CONF_DIR,
    state_dir: networks.StateDir = "",
    as_json: output.AsJson = False,
) -> None:
    """Check the rules of namespaces and measure whether they keep their limits.

    Shows qdisc and class of both ends, then measures with iperf3: from the host, and from
    all chosen namespaces at once, each egress and ingress. Start the servers on the other
    machine with `cni-faasm iperf-servers 3`. The exit status is 1 when rules are not as
    configured, a limit is exceeded by more than 5 % or missed by more than 10 %, and 3 when
    that could not be measured.

    Examples:

        cni-faasm network-check 192.0.2.10

        cni-faasm network-check 192.0.2.10 --namespaces 1,4,7 --seconds 30 --html report.html

        cni-faasm network-check 192.0.2.10 --json
    """
    from cni_faasm.cli.network_check import show
    from cni_faasm.cli.network_check import targets as look
    from cni_faasm.cli.network_check.run import Check, InterruptedBySignalError, Interruption

    if os.geteuid() != 0:
        raise ToolError("network namespaces can only be entered by root", "run it as root")
    if html:
        _writable(html)
    interruption = Interruption()
    with interruption.installed():
        names = look.choose(namespaces, prefix)
        if port + len(names) > 65536:
            raise typer.BadParameter(
                f"{len(names)} ports from {port} up go beyond 65535", param_hint="--port"
            )
        check = Check(server, seconds=seconds, first_port=port)
        out, err = show.console(), show.console(stderr=True)
        check.tick = interruption.check
        try:
            check.find(names, networks.state_dirs(networks.installed(conf_dir), state_dir))
            if not as_json:
                show.show_rules(out, check)
            show.show_findings(err if as_json else out, check.findings)
            known = len(check.findings)
            check.find_servers()
            show.say(err if as_json else out, check.mode() + ".")
            with show.progress(check, interruption.check):
                check.measure()
            if as_json:
                output.print_json(check.document())
            else:
                show.show_table(out, check)
            show.show_findings(err if as_json else out, check.findings[known:])
            if html:
                from cni_faasm.cli.network_check.html import page

                output.write_whole(html, page(check).encode())
                err.print(f"wrote {html}", soft_wrap=True)
            failed = bool(check.problems())
        except InterruptedBySignalError as error:
            raise typer.Exit(show.show_interrupted(error)) from None
        finally:
            check.close()
    if failed:
        raise typer.Exit(1)


def _writable(path: str) -> None:
    """Find out now, and not after a minute of measuring, that a file cannot be written."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.access(folder, os.W_OK):
        raise ToolError(f"--html: cannot write {path}", "give a file in a folder that exists")

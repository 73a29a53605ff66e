"""The command iperf-servers: as many iperf3 servers as namespaces are measured at once."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from types import FrameType
from typing import Annotated

import typer

from cni_faasm.cli import output
from cni_faasm.cli.fault import ToolError

DEFAULT_PORT = 5201
START_S = 5
# A server that ended is started again, but not in a frenzy.
RESTART_S = 1
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _EndError(Exception):
    """A signal asked us to end; its number is the argument."""


def iperf_servers(
    number: Annotated[int, typer.Argument(metavar="N", min=1, max=1000, help="How many servers.")],
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="The first one's port.")
    ] = DEFAULT_PORT,
    as_json: output.AsJson = False,
) -> None:
    """Run N iperf3 servers until Ctrl-C, for a network check from another machine.

    One iperf3 server serves one test at a time, so measuring N namespaces at once needs N
    servers, on N ports from 5201 up.

    Examples:

        cni-faasm iperf-servers 3

        cni-faasm iperf-servers 10 --port 6000
    """
    from cni_faasm.cli.network_check.measure import find_iperf3

    command = find_iperf3()
    if port + number > 65536:
        raise typer.BadParameter(
            f"{number} ports from {port} up go beyond 65535", param_hint="--port"
        )
    ports = range(port, port + number)
    taken = [one for one in ports if _is_taken(one)]
    if taken:
        raise ToolError(
            f"ports in use: {', '.join(map(str, taken))}",
            "another iperf3 may serve there already (`ss -ltnp` tells); or give --port",
        )
    for which_signal in SIGNALS:
        signal.signal(which_signal, _end)
    servers: dict[int, subprocess.Popen[bytes]] = {}
    status = 0
    try:
        for one in ports:
            _start(command, one, servers)
        _await_listening(servers)
        _tell(ports, servers, as_json)
        while True:
            time.sleep(RESTART_S)
            for one, server in servers.items():
                if server.poll() is not None:
                    output.note(f"the server on port {one} ended and is started again")
                    _start(command, one, servers)
    except _EndError as error:
        status = 0 if error.args[0] == signal.SIGINT else 128 + int(error.args[0])
    finally:
        for which_signal in SIGNALS:
            signal.signal(which_signal, signal.SIG_IGN)
        for server in servers.values():
            server.terminate()
        for server in servers.values():
            try:
                server.wait(2)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    if status == 0 and not as_json:
        typer.echo(f"ended {len(servers)} server{'' if len(servers) == 1 else 's'}")
    raise typer.Exit(status)


def _end(number: int, _: FrameType | None) -> None:
    raise _EndError(number)


def _start(command: str, port: int, servers: "dict[int, subprocess.Popen[bytes]]") -> None:
    from cni_faasm.cli.network_check.measure import child_environment

    # No signal between the birth of a server and our knowing of it.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        servers[port] = subprocess.Popen(
            [command, "--server", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=child_environment(),
            preexec_fn=_as_child,  # noqa: PLW1509 -- there are no threads
        )
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _as_child() -> None:
    """End with the parent, even if that is killed; take signals as a program does."""
    import ctypes

    pr_set_pdeathsig = 1  # <linux/prctl.h>
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    os.setpgid(0, 0)  # Ctrl-C is for us, who then end all of them in order


def _is_taken(port: int) -> bool:
    for family, address in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):  # noqa: S104
        with contextlib.suppress(OSError), socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except PermissionError:
                raise ToolError(f"port {port} is for root only", "give --port") from None
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:  # a family that is switched off
                    return True
    return False


def _await_listening(servers: "dict[int, subprocess.Popen[bytes]]") -> None:
    end = time.monotonic() + START_S
    waiting = set(servers)
    while waiting:
        waiting -= _listening_ports()
        for port in waiting:
            status = servers[port].poll()
            if status is not None:
                raise ToolError(
                    f"iperf3 ended with status {status} instead of serving port {port}",
                    f"try it by hand: iperf3 -s -p {port}",
                )
        if time.monotonic() > end:
            raise ToolError(f"iperf3 does not listen on ports {sorted(waiting)}")
        time.sleep(0.02)


def _listening_ports() -> set[int]:
    """Return the ports on which TCP sockets of this namespace listen (proc_pid_net(5))."""
    found = set()
    for path in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        with contextlib.suppress(FileNotFoundError), open(path, encoding="ascii") as file:
            for line in file.readlines()[1:]:
                words = line.split()
                if words[3] == "0A":  # TCP_LISTEN
                    found.add(int(words[1].rpartition(":")[2], 16))
    return found


def _tell(ports: range, servers: "dict[int, subprocess.Popen[bytes]]", as_json: bool) -> None:
    if as_json:
        output.print_json({"servers": [{"port": port, "pid": servers[port].pid} for port in ports]})
    else:
        which = f"port {ports[0]}" if len(ports) == 1 else f"ports {ports[0]} to {ports[-1]}"
        who = f"{len(ports)} iperf3 server" + (" listens" if len(ports) == 1 else "s listen")
        typer.echo(f"{who} on {which}; TCP must be let in there.")
        typer.echo("On the host with the namespaces: cni-faasm network-check THIS-ADDRESS")
        typer.echo("Ctrl-C ends them.")
    sys.stdout.flush()

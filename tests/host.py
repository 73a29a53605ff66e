"""Give tests a host of their own: namespaces, a remote machine, and calls as a runtime makes.

    remote machine "internet"             the Host (a network namespace)         container
    198.51.100.1/24  eth0 ─── veth ─── uplink  198.51.100.2/24, default route     (empty but lo)

A Host is a network namespace inside bin/private_host.sh's private one; its data and state
directories lie under one temporary directory. `with host.entered():` moves the calling
thread into it, so that sockets opened and programs started there belong to that host.
Only the standard library and the machine's tools (ip, tc, nft) are used: the demo shares
this module and runs where no test dependency is installed.
"""

import contextlib
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, pairwise
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
# The bundle under test; FAASM_BUNDLE=/usr/lib/cni-faasm tests the installed one.
BUNDLE = Path(os.environ.get("FAASM_BUNDLE") or REPO / "dist" / "faasm")
PRIVATE_MARKER = Path("/run/faasm-private-host")
REFERENCE_PLUGINS = Path("/usr/lib/cni")

CLONE_NEWNET = 0x40000000
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# ipam's keys for one address of each family.
DUAL_STACK = {
    "subnet": None,
    "ranges": [[{"subnet": "10.200.0.0/16"}], [{"subnet": "fd00:200::/64"}]],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
}

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = count(1)

# What assert_unchanged says nothing about: the network's one table stays after the last
# DEL by design (GC takes it), and round robin remembers where it was.
AFTER_LAST_DEL = frozenset({"nft"})


class CommandFailedError(AssertionError):
    """Say which command failed inside a host, and what it printed."""


class CniCall:
    """Hold what one call of a plugin gave back."""

    def __init__(self, verb: str, status: int, stdout: bytes, stderr: bytes) -> None:
        self.verb = verb
        self.status = status
        self.stdout = stdout
        self.stderr = stderr

    @property
    def document(self) -> dict[str, Any]:
        """Return stdout as a JSON object; AssertionError when it is not one."""
        try:
            document = json.loads(self.stdout)
        except ValueError:
            msg = f"{self!r}: stdout is not JSON"
            raise AssertionError(msg) from None
        assert isinstance(document, dict), repr(self)
        return document

    def ok(self) -> dict[str, Any]:
        """Return the result of a call that must succeed ({} where it prints nothing)."""
        assert self.status == 0, repr(self)
        return self.document if self.stdout.strip() else {}

    def error(self, code: int | None = None) -> dict[str, Any]:
        """Return the error document of a call that must fail, with this code if given."""
        assert self.status == 1, repr(self)
        assert self.stderr.find(b"Traceback") < 0, repr(self)
        document = self.document
        assert document.keys() >= {"cniVersion", "code", "msg"}, repr(self)
        if code is not None:
            assert document["code"] == code, repr(self)
        return document

    def __repr__(self) -> str:
        return (
            f"<{self.verb}: status {self.status}, stdout {self.stdout.decode(errors='replace')!r}, "
            f"stderr {self.stderr.decode(errors='replace')!r}>"
        )


class Namespace:
    """Hold one network namespace and run things in it.

    name: of a new one at /run/netns/NAME.
    path: of one that somebody else made, and will remove.
    """

    def __init__(self, name: str, *, path: str | None = None) -> None:
        self.name = name
        self.path = path or f"/run/netns/{name}"
        if path is None:
            _execute(["ip", "netns", "add", name])
            self.run(["ip", "link", "set", "lo", "up"])

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Move the calling thread into this namespace for the block."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            inside = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _setns(inside)
            finally:
                os.close(inside)
            try:
                yield
            finally:
                _setns(before)
        finally:
            os.close(before)

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        stdin: str | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in here; CommandFailedError when it fails and check is set."""
        with self.entered():
            return _execute(argv, check=check, stdin=stdin, timeout=timeout)

    def start(self, argv: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
        """Start a command in here and leave it running; the caller ends it.

        It has a session of its own: Ctrl-C reaches the test alone, which ends it in order.
        """
        options.setdefault("start_new_session", True)
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.STDOUT)
        with self.entered():
            return subprocess.Popen(list(argv), **options)

    def json(self, *argv: str) -> Any:
        """Run a command that prints JSON; nothing printed counts as an empty list."""
        text = self.run(argv).stdout
        return json.loads(text) if text.strip() else []

    def link(self, name: str) -> dict[str, Any] | None:
        """Return `ip -d -s link` of one interface, or None."""
        for link in self.json("ip", "-j", "-d", "-s", "link", "show"):
            if link["ifname"] == name:
                assert isinstance(link, dict)
                return link
        return None

    def links(self) -> list[str]:
        """Return the names of all interfaces but lo."""
        return [
            link["ifname"]
            for link in self.json("ip", "-j", "link", "show")
            if link["ifname"] != "lo"
        ]

    def addresses(self, name: str, *, scope: str | None = "global") -> list[str]:
        """Return "ADDRESS/LENGTH" of one interface's addresses of a scope (None: any)."""
        return [
            f"{address['local']}/{address['prefixlen']}"
            for link in self.json("ip", "-j", "addr", "show", "dev", name)
            for address in link.get("addr_info", [])
            if scope is None or address["scope"] == scope
        ]

    def is_active(self, name: str) -> bool:
        """Say whether the kernel has noticed the carrier: a moment after both ends are up."""
        return bool(self.json("ip", "-j", "link", "show", name)[0]["operstate"] == "UP")

    def is_own(self, address: str) -> bool:
        """Say whether what comes for an address is taken in: for IPv6 a moment after it is given."""
        return self.run(["ip", "route", "get", address], check=False).stdout.startswith("local ")

    def routes(self, family: int = 4, **matching: str) -> list[dict[str, Any]]:
        """Return the main table's routes whose fields (dst, dev, gateway...) are as given."""
        routes: list[dict[str, Any]] = self.json("ip", f"-{family}", "-j", "-d", "route", "show")
        return [r for r in routes if all(r.get(key) == value for key, value in matching.items())]

    def qdiscs(self, dev: str) -> list[dict[str, Any]]:
        """Return `tc -s -d qdisc show dev`."""
        qdiscs: list[dict[str, Any]] = self.json(
            "tc", "-j", "-s", "-d", "qdisc", "show", "dev", dev
        )
        return qdiscs

    def classes(self, dev: str) -> list[dict[str, Any]]:
        """Return the HTB classes of `tc -s -d class show dev`: see parse_classes.

        fq_codel shows each of its flows as a class, while something waits in it.
        """
        listed = parse_classes(self.run(["tc", "-s", "-d", "class", "show", "dev", dev]).stdout)
        return [one for one in listed if one["kind"] == "htb"]

    def nft(self) -> list[dict[str, Any]]:
        """Return the objects of `nft -j list ruleset` without the one about nft itself."""
        ruleset = self.json("nft", "-j", "list", "ruleset")
        objects: list[dict[str, Any]] = ruleset["nftables"] if ruleset else []
        return [item for item in objects if "metainfo" not in item]

    def nft_tables(self) -> list[str]:
        """Return "FAMILY NAME" of every nftables table."""
        return [f"{i['table']['family']} {i['table']['name']}" for i in self.nft() if "table" in i]

    def sysctl(self, key: str, value: str | None = None) -> str:
        """Read, or write and read back, a network sysctl of this namespace (net.ipv4.ip_forward)."""
        path = Path("/proc/sys") / key.replace(".", "/")
        with self.entered():
            if value is not None:
                path.write_text(value, encoding="ascii")
            return path.read_text(encoding="ascii").strip()

    def snapshot(self) -> dict[str, Any]:
        """Return everything configured in here, without counters and what time changes.

        The kernel makes and takes the local routes of IPv6 addresses a moment after these, by a
        work queue that a busy machine lets wait: what is not so yet is looked at again.
        """
        links, addresses, *tables = self._batch("-4")
        end = time.monotonic() + 2
        while True:
            _, addresses6, *tables6 = self._batch("-6")
            if time.monotonic() > end or not self._late_routes(addresses6, tables6[0]):
                break
            time.sleep(0.01)
        qdiscs = self.json("tc", "-j", "-d", "qdisc", "show")
        classful = sorted({q["dev"] for q in qdiscs if q["kind"] not in ("noqueue", "pfifo_fast")})
        return {
            "links": _by(links, "ifname", drop=("operstate", "flags")),
            "up": [link["ifname"] for link in links if "UP" in link["flags"]],
            "addresses": {
                f"{link['ifname']} IPv{family}": [
                    _without(address, "valid_life_time", "preferred_life_time", "tentative")
                    for address in link["addr_info"]
                ]
                for family, found in ((4, addresses), (6, addresses6))
                for link in found
            },
            "routes": sorted(
                json.dumps(_without_carrier(_without(route, "expires")), sort_keys=True)
                for route in (*tables[0], *tables6[0])
            ),
            "rules": [tables[1], tables6[1]],
            "neighbours": [_settled(one) for one in (*tables[2], *tables6[2])],
            "qdiscs": [
                _without(q, "refcnt", "options")
                | {"options": _without(q["options"], "direct_packets_stat")}
                for q in qdiscs
            ],
            "classes": {
                dev: self.run(["tc", "-d", "class", "show", "dev", dev]).stdout for dev in classful
            },
            "filters": {
                f"{dev} {hook}": self.json("tc", "-j", "filter", "show", "dev", dev, hook)
                for dev in classful
                for hook in ("root", "ingress", "egress")
            },
            "nft": [_without_counters(_without_elements(item)) for item in self.nft()],
        }

    def _late_routes(
        self, links: list[dict[str, Any]], routes: list[dict[str, Any]]
    ) -> set[tuple[str, str]]:
        """Return which IPv6 addresses have no local route (yet), or the other way round."""
        given = {
            (link["ifname"], address["local"])
            for link in links
            if "UP" in link["flags"]
            for address in link["addr_info"]
            # One that the kernel asks the link for has no route before somebody had time to answer.
            if not address.get("tentative")
            or self.sysctl(f"net.ipv6.conf.{link['ifname']}.accept_dad") == "0"
        }
        return given ^ {(one["dev"], one["dst"]) for one in routes if one.get("type") == "local"}

    def _batch(self, family: str) -> list[list[dict[str, Any]]]:
        """Return links, addresses, routes, rules, permanent neighbours by one command."""
        commands = (
            "link show\naddr show\nroute show table all\nrule show\nneigh show nud permanent\n"
        )
        done = self.run(["ip", "-j", "-d", family, "-batch", "-"], stdin=commands)
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(answers) == 5, done.stdout
        return [[item for item in answer if item] for answer in answers]

    def delete(self) -> None:
        """Remove the namespace and what is in it; its name is free at once."""
        _execute(["ip", "netns", "del", self.name], check=False)


class Host(Namespace):
    """Own a whole host: its namespace, containers, remote machines, directories."""

    def __init__(self, directory: Path, *, plugin: Sequence[str] | None = None) -> None:
        require_private_host()
        self.number = next(_numbers)
        super().__init__(f"host{self.number}")
        self.directory = directory
        self.data_dir = directory / "leases"
        self.state_dir = directory / "state"
        self.plugin: list[str] = list(plugin or source_plugin())
        self.containers: list[Namespace] = []
        self.remotes: list[Namespace] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self._uplinks = 0

    # -- neighbours ----------------------------------------------------------------------

    def add_container(self, name: str | None = None) -> Namespace:
        """Make an empty network namespace at /run/netns/NAME, as a runtime does before ADD."""
        namespace = Namespace(name or f"h{self.number}c{len(self.containers) + 1}")
        self.containers.append(namespace)
        return namespace

    def add_remote(
        self,
        name: str | None = None,
        *,
        subnet: str = "198.51.100",
        subnet6: str | None = "2001:db8:100:",
        mtu: int = 1500,
        default_route: bool = True,
    ) -> Namespace:
        """Make a machine behind an uplink: remote .1 (and ::1), host .2 (and ::2), /24 and /64.

        The remote knows no way to any container: an answer proves that the host masqueraded,
        unless the test gives the remote a route by `remote.run(["ip", "route", "add", ...])`.
        """
        self._uplinks += 1
        remote = Namespace(name or f"h{self.number}r{self._uplinks}")
        self.remotes.append(remote)
        uplink = "uplink" if self._uplinks == 1 else f"uplink{self._uplinks}"
        peer = ["peer", "name", "eth0", "mtu", str(mtu), "netns", remote.name]
        self.run(["ip", "link", "add", uplink, "mtu", str(mtu), "type", "veth", *peer])
        for namespace, device, last in ((self, uplink, 2), (remote, "eth0", 1)):
            # link-local addresses would come some time after a snapshot
            namespace.run(["ip", "link", "set", device, "addrgenmode", "none"])
            namespace.run(["ip", "addr", "add", f"{subnet}.{last}/24", "dev", device])
            if subnet6 is not None:
                namespace.run(["ip", "addr", "add", f"{subnet6}:{last}/64", "dev", device, "nodad"])
            namespace.run(["ip", "link", "set", device, "up"])
        if default_route:
            self.run(["ip", "route", "add", "default", "via", f"{subnet}.1"])
            if subnet6 is not None:
                self.run(["ip", "-6", "route", "add", "default", "via", f"{subnet6}:1"])
        for namespace, device, last in ((self, uplink, 2), (remote, "eth0", 1)):
            wait_until(lambda n=namespace, d=device: n.is_active(d), f"{device} to be active")
            if subnet6 is not None:
                address = f"{subnet6}:{last}"
                wait_until(lambda n=namespace, a=address: n.is_own(a), f"the route of {address}")
        return remote

    def serve(
        self, namespace: Namespace, argv: Sequence[str], *, port: int
    ) -> "subprocess.Popen[bytes]":
        """Start a TCP server in a namespace and return when it listens; ended by close()."""
        server = namespace.start(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.processes.append(server)
        wait_until(lambda: is_listening(namespace, port), f"{argv[0]} to listen on port {port}")
        return server

    # -- calls as a runtime makes them ---------------------------------------------------

    def config(self, **keys: Any) -> dict[str, Any]:
        """Return a complete configuration for this host's directories; keys override.

        `ipam` and `bandwidth` are merged into the defaults one level deep; a key given as
        None is left out.
        """
        config: dict[str, Any] = {
            "cniVersion": "1.1.0",
            "name": "testnet",
            "type": "faasm",
            "stateDir": str(self.state_dir),
            "ipam": {
                "type": "host-local",
                "subnet": "10.200.0.0/16",
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": str(self.data_dir),
            },
        }
        for key, value in keys.items():
            if isinstance(value, dict) and isinstance(config.get(key), dict):
                merged = config[key] | value
                config[key] = {k: v for k, v in merged.items() if v is not None}
            elif value is None:
                config.pop(key, None)
            else:
                config[key] = value
        return config

    def cni(
        self,
        verb: str,
        container: Namespace | str | None,
        config: Mapping[str, Any] | bytes,
        *,
        container_id: str | None = None,
        ifname: str | None = "eth0",
        args: str | None = None,
        plugin: Sequence[str] | None = None,
        env: Mapping[str, str | None] | None = None,
        timeout: float = 30,
    ) -> CniCall:
        """Call the plugin in this host's namespace, as a runtime does.

        container: a Namespace, the text of CNI_NETNS, or None to leave the variable out.
        container_id: default the namespace's name (else "c1").
        env: further variables; a value of None takes one of the usual ones away.
        plugin: a command in place of the host's own (see reference_plugin).
        """
        command = list(plugin or self.plugin)
        variables: dict[str, str | None] = {
            "PATH": SYSTEM_PATH,
            "CNI_COMMAND": verb,
            "CNI_PATH": f"{BUNDLE}:{REFERENCE_PLUGINS}",
        }
        if command[0] == sys.executable:
            variables["PYTHONPATH"] = str(REPO)
        if verb in ("ADD", "DEL", "CHECK"):
            name = container.name if isinstance(container, Namespace) else "c1"
            variables["CNI_CONTAINERID"] = container_id or name
            variables["CNI_NETNS"] = (
                container.path if isinstance(container, Namespace) else container
            )
            variables["CNI_IFNAME"] = ifname
            variables["CNI_ARGS"] = args
        variables.update(env or {})
        document = config if isinstance(config, bytes) else json.dumps(config).encode()
        with self.entered():
            done = subprocess.run(
                command,
                input=document,
                env={key: value for key, value in variables.items() if value is not None},
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        return CniCall(verb, done.returncode, done.stdout, done.stderr)

    def add(
        self, container: Namespace, config: Mapping[str, Any], **options: Any
    ) -> dict[str, Any]:
        """Call ADD, which must succeed; return its result."""
        return self.cni("ADD", container, config, **options).ok()

    def check(
        self, container: Namespace, config: Mapping[str, Any], result: Any, **options: Any
    ) -> CniCall:
        """Call CHECK with the result of ADD as prevResult."""
        return self.cni("CHECK", container, {**config, "prevResult": result}, **options)

    def delete_attachment(
        self, container: Namespace | str | None, config: Mapping[str, Any], **options: Any
    ) -> None:
        """Call DEL, which must succeed and print nothing."""
        call = self.cni("DEL", container, config, **options)
        call.ok()
        assert call.stdout.strip() == b"", repr(call)

    def chain(
        self, verb: str, container: Namespace, conflist: Mapping[str, Any], **options: Any
    ) -> dict[str, Any]:
        """Call every plugin of a list as libcni does (DEL backwards); return the last result.

        A plugin of type "faasm" is the host's own; any other is Debian's reference one.
        conflist["prevResult"] is handed to CHECK and DEL.
        """
        result: dict[str, Any] = dict(conflist.get("prevResult") or {})
        plugins = list(conflist["plugins"])
        for plugin in reversed(plugins) if verb == "DEL" else plugins:
            config = {**plugin, "name": conflist["name"], "cniVersion": conflist["cniVersion"]}
            if result:
                config["prevResult"] = result
            own = plugin["type"] == "faasm"
            call = self.cni(
                verb,
                container,
                config,
                plugin=None if own else reference_plugin(plugin["type"]),
                **options,
            )
            answer = call.ok()
            if verb == "ADD":
                result = answer
        return result

    # -- before and after ----------------------------------------------------------------

    @contextmanager
    def lock_held(self) -> Iterator[None]:
        """Hold the lock of testnet's leases, as somebody who hangs."""
        folder = self.data_dir / "testnet"
        folder.mkdir(parents=True, exist_ok=True)
        with subprocess.Popen(
            ["flock", "--no-fork", str(folder / "lock"), "sh", "-c", "echo held; exec sleep 60"],
            stdout=subprocess.PIPE,
        ) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            try:
                yield
            finally:
                holder.kill()

    def leases(self) -> dict[str, str]:
        """Return "NETWORK/ADDRESS" → content of every lease file."""
        return {
            name: content
            for name, content in _files(self.data_dir).items()
            if not name.rpartition("/")[2].startswith(("lock", "last_reserved_ip"))
        }

    def records(self) -> dict[str, str]:
        """Return "NETWORK/CONTAINER@IFNAME" → content of every attachment record."""
        return {name: content for name, content in _files(self.state_dir).items() if "@" in name}

    def snapshot(self) -> dict[str, Any]:
        """Return all that is configured in the host, its containers, and the store."""
        everything = super().snapshot()
        everything["leases"] = self.leases()
        everything["records"] = self.records()
        everything["containers"] = {
            c.name: c.snapshot() for c in self.containers if os.path.exists(c.path)
        }
        return everything

    def assert_unchanged(
        self, before: Mapping[str, Any], *, ignore: Iterable[str] = (), patience: float = 1
    ) -> None:
        """Compare with an earlier snapshot; name every section and item that differs.

        A deleted link is unlisted some milliseconds before the kernel has let go of all of
        it (netns exit is asynchronous), so a difference must last (patience, in seconds) to count.
        ignore: sections to leave out, like AFTER_LAST_DEL.
        """
        ignored = set(ignore)
        end = time.monotonic() + patience
        while True:
            after = self.snapshot()
            differences = [
                d
                for key in before
                if key not in ignored
                for d in compare(key, before[key], after[key])
            ]
            if not differences:
                return
            if time.monotonic() > end:
                msg = "the host is not as before:\n" + "\n".join(differences)
                raise AssertionError(msg)
            time.sleep(0.05)

    def close(self) -> None:
        """End the servers, remove every namespace and directory; never raises."""
        for process in self.processes:
            process.kill()
            process.wait()
        for namespace in (*self.containers, *self.remotes):
            namespace.delete()
        self.delete()
        shutil.rmtree(self.data_dir, ignore_errors=True)
        shutil.rmtree(self.state_dir, ignore_errors=True)


def parse_classes(text: str) -> list[dict[str, Any]]:
    """Read `tc -s -d class show`: Debian's tc prints no JSON for HTB classes.

    Returns: per class kind, handle, parent ("root" or a handle), leaf (or None), rate and
    ceil in bit/s (tc rounds to four digits or so), burst, cburst and quantum in bytes, and
    the counters bytes, packets, dropped, overlimits, backlog_bytes.
    """
    classes = []
    for block in re.split(r"^(?=class )", text, flags=re.MULTILINE)[1:]:
        words = block.split()
        found: dict[str, Any] = {"kind": words[1], "handle": words[2], "leaf": None}
        found["parent"] = "root" if words[3] == "root" else words[4]
        for name, value in pairwise(words):
            if name == "leaf":
                found["leaf"] = value
            elif name in ("rate", "ceil"):
                found[name] = parse_rate(value)
            elif name in ("burst", "cburst"):
                found[name] = parse_size(value.partition("/")[0])
            elif name == "quantum":
                found[name] = int(value)
        counters = (
            r"Sent (?P<bytes>\d+) bytes (?P<packets>\d+) pkt "
            r"\(dropped (?P<dropped>\d+), overlimits (?P<overlimits>\d+) "
        )
        if match := re.search(counters, block):
            found |= {name: int(value) for name, value in match.groupdict().items()}
        if match := re.search(r"backlog (\w+) ", block):
            found["backlog_bytes"] = parse_size(match[1])
        classes.append(found)
    return classes


def parse_rate(text: str) -> int:
    """Return bit/s of a rate as tc prints it: 10Mbit, 256Kbit, 800bit."""
    return _scaled(text, "bit", 1000)


def parse_size(text: str) -> int:
    """Return the bytes of a size as tc prints it: 1600b, 15Kb, 2Mb (times 1024)."""
    return _scaled(text, "b", 1024)


def _scaled(text: str, unit: str, kilo: int) -> int:
    number = text.removesuffix(unit)
    power = " KMGT".find(number[-1])
    return int(number) if power < 0 else int(number[:-1]) * int(kilo**power)


def source_plugin() -> list[str]:
    """Return the command of the plugin in its development form."""
    return [sys.executable, "-m", "cni_faasm"]


def reluctant_plugin() -> list[str]:
    """Return the command of the plugin on a kernel that tells less than it is asked for."""
    return [sys.executable, "-m", "tests.reluctant"]


def built_plugin() -> list[str]:
    """Return the command of the plugin that build.sh made."""
    return [str(BUNDLE / "faasm")]


def reference_plugin(name: str) -> list[str]:
    """Return the command of one of Debian's containernetworking-plugins."""
    return [str(REFERENCE_PLUGINS / name)]


def in_private_host() -> bool:
    """Say whether this process runs under bin/private_host.sh."""
    return PRIVATE_MARKER.exists()


def require_private_host() -> None:
    """Raise RuntimeError with a remedy unless inside bin/private_host.sh."""
    if not in_private_host():
        msg = (
            "this would change the machine's own network: run it by `tests/run.sh` "
            "(or `bin/private_host.sh COMMAND...`), which give it a private host"
        )
        raise RuntimeError(msg)


def is_listening(namespace: Namespace, port: int) -> bool:
    """Say whether a TCP socket listens on a port in a namespace."""
    return bool(namespace.run(["ss", "-Hltn", f"sport = :{port}"]).stdout.strip())


def processes() -> dict[int, str]:
    """Return PID → command of every process that we can see, but for zombies."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command = (directory / "cmdline").read_bytes()
        except OSError:
            continue
        if command:
            found[int(directory.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def wait_until(condition: Any, what: str, timeout: float = 10) -> None:
    """Poll a condition; AssertionError naming what did not come."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            msg = f"waited {timeout} s in vain for {what}"
            raise AssertionError(msg)
        time.sleep(0.01)


def _execute(
    argv: Sequence[str], *, check: bool = True, stdin: str | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        list(argv),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={
            "PATH": SYSTEM_PATH,
            "LC_ALL": "C.UTF-8",
            "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
            "HOME": "/run/home",
        },
    )
    if check and done.returncode != 0:
        msg = f"{' '.join(argv)}: status {done.returncode}\n{done.stdout}{done.stderr}"
        raise CommandFailedError(msg)
    return done


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _files(directory: Path) -> dict[str, str]:
    found = {}
    for path in sorted(directory.rglob("*")) if directory.exists() else []:
        # A verb may be at work in there: what vanishes between two looks was not there.
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                found[str(path.relative_to(directory))] = path.read_bytes().decode(errors="replace")
    return found


def _without(item: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key not in keys}


def _without_carrier(route: dict[str, Any]) -> dict[str, Any]:
    """Leave out a flag that a new link's routes have until its carrier is noticed."""
    return {**route, "flags": [flag for flag in route["flags"] if flag != "linkdown"]}


def _settled(neighbour: dict[str, Any]) -> dict[str, Any]:
    """Leave out the state of one that is not permanent: it goes with traffic and time."""
    return neighbour if neighbour["state"] == ["PERMANENT"] else _without(neighbour, "state")


def _by(items: list[dict[str, Any]], name: str, *, drop: Iterable[str] = ()) -> dict[str, Any]:
    """Index items by a field, leaving some fields out."""
    return {item[name]: _without(item, *drop) for item in items}


def _without_counters(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: _without_counters(v)
            for k, v in value.items()
            if k not in ("handle", "packets", "bytes")
        }
    if isinstance(value, list):
        return [_without_counters(item) for item in value]
    return value


def _without_elements(item: dict[str, Any]) -> dict[str, Any]:
    """Leave out what rules put into sets themselves, for a time."""
    if "set" in item:
        return {"set": _without(item["set"], "elem")}
    return item


def compare(where: str, before: Any, after: Any) -> list[str]:
    """Return a line for each item in which two snapshots differ."""
    if before == after:
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            difference
            for key in sorted({*before, *after})
            for difference in compare(f"{where}.{key}", before.get(key), after.get(key))
        ]
    if isinstance(before, list) and isinstance(after, list):
        gone = [f"  {where}: gone: {item}" for item in before if item not in after]
        come = [f"  {where}: new: {item}" for item in after if item not in before]
        return gone + come or [f"  {where}: another order or number: {before} → {after}"]
    return [f"  {where}: {before} → {after}"]

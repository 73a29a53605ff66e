"""Call the operator's tool as a person would, on a test's own host."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.host import REPO, SYSTEM_PATH, Host
from tests.jsonschemas import demand_valid

SOURCE_TOOL = [sys.executable, "-m", "cni_faasm.cli"]
# What a test calls that does not say which; guests have the built one called.
TOOL = [os.environ["FAASM_TOOL"]] if "FAASM_TOOL" in os.environ else SOURCE_TOOL
BANDWIDTH = {"ingressRate": 20_000_000, "egressRate": 10_000_000}


class Done:
    """Hold what one call of the tool gave back."""

    def __init__(self, argv: Sequence[str], status: int, stdout: str, stderr: str) -> None:
        self.argv = list(argv)
        self.status = status
        self.stdout = stdout
        self.stderr = stderr

    def ok(self) -> "Done":
        return self.expect(0)

    def expect(self, status: int) -> "Done":
        """Demand an exit status, and that nobody sees a traceback."""
        assert "Traceback" not in self.stderr, repr(self)
        assert self.status == status, repr(self)
        return self

    @property
    def document(self) -> Any:
        """Return what --json printed: one document and nothing else."""
        return json.loads(self.stdout)

    def __repr__(self) -> str:
        return f"<{self.argv}: status {self.status}\n{self.stdout}\n{self.stderr}>"


class Tool:
    """Call the tool on one host whose networks are in a folder of their own.

    prefix: of pools, so that tests do not share the names in /run/netns.
    """

    def __init__(self, host: Host, command: Sequence[str] = ()) -> None:
        self.host = host
        self.command = list(command) or TOOL
        self.conf_dir = host.directory / "net.d"
        self.conf_dir.mkdir(parents=True, exist_ok=True)
        self.prefix = f"p{host.number}x"

    def network(self, *, plugins: Sequence[dict[str, Any]] = (), **keys: Any) -> Path:
        """Write the list file of a network; keys as Host.config takes them."""
        config = self.host.config(**{"ipMasq": True, "bandwidth": BANDWIDTH, **keys})
        version, name = config.pop("cniVersion"), config.pop("name")
        listed = {"cniVersion": version, "name": name, "plugins": [config, *plugins]}
        path = self.conf_dir / f"10-{name}.conflist"
        path.write_text(json.dumps(listed, indent=2), encoding="utf-8")
        return path

    def environment(self) -> dict[str, str]:
        return {
            "PATH": SYSTEM_PATH,
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(REPO),
            "TERM": "xterm",
            "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
        }

    def argv(self, *words: str) -> list[str]:
        """Return a command line, with the options that lead it to this host's folders."""
        extra: list[str] = []
        group = words[:2] if words[0] == "pool" else words[:1]
        if group[0] == "pool":
            extra += ["--prefix", self.prefix]
        if group not in (("pool", "exec"), ("pool", "return"), ("pool", "status")) and words[
            0
        ] not in (
            "migrate",
            "validate",
            "version",
        ):
            extra += ["--conf-dir", str(self.conf_dir)]
        return [*self.command, *group, *extra, *words[len(group) :]]

    def __call__(self, *words: str, timeout: float = 60) -> Done:
        argv = self.argv(*words)
        with self.host.entered():
            done = subprocess.run(
                argv,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
            )
        if "--json" in words and words[:2] != ("pool", "exec"):
            demand_valid(json.loads(done.stdout))
        return Done(words, done.returncode, done.stdout, done.stderr)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start the tool and leave it running, its output to be read line by line."""
        with self.host.entered():
            return subprocess.Popen(
                self.argv(*words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=self.environment() | {"PYTHONUNBUFFERED": "1"},
            )

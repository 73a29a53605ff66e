"""Call the plugin as podman 5 and its netavark do: by arguments, with their documents on stdin."""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tests.host import REPO, SYSTEM_PATH, CniCall, Host, Namespace

ID = "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9"


class Netavark:
    """What podman keeps of one network, and its way to the plugin."""

    def __init__(self, host: Host, **keys: Any) -> None:
        self.host = host
        options = {"stateDir": str(host.state_dir), "dataDir": str(host.data_dir)}
        given = {
            "name": "testnet",
            "id": ID,
            "driver": "faasm",
            "created": "0001-01-01T00:00:00Z",
            "subnets": [{"subnet": "10.200.0.0/16"}],
            "ipv6_enabled": False,
            "internal": False,
            "dns_enabled": True,
            "ipam_options": {"driver": "host-local"},
            **keys,
        }
        given["options"] = options | (keys.get("options") or {})
        self.network: dict[str, Any] = self.call("create", document=given).ok()

    def call(self, *words: str, document: Any = None, tracer: Sequence[str] = ()) -> CniCall:
        """Call the plugin, or a command that calls it; document: what stdin has."""
        variables = {"PATH": SYSTEM_PATH}
        if self.host.plugin[0] == sys.executable:
            variables["PYTHONPATH"] = str(REPO)
        with self.host.entered():
            done = subprocess.run(
                [*tracer, *self.host.plugin, *words],
                input=document if isinstance(document, bytes) else json.dumps(document).encode(),
                env=variables,
                capture_output=True,
                timeout=60,
                check=False,
            )
        return CniCall(words[0], done.returncode, done.stdout, done.stderr)

    def document(
        self,
        container: Namespace,
        addresses: Sequence[str],
        *,
        ifname: str = "eth0",
        options: dict[str, str] | None = None,
        **keys: Any,
    ) -> dict[str, Any]:
        """Return what setup and teardown get for a container."""
        own = {"interface_name": ifname, "static_ips": list(addresses) or None, "options": options}
        own["static_mac"] = keys.pop("static_mac", None)
        made: dict[str, Any] = {
            "container_id": keys.pop("container_id", container.name),
            "container_name": f"{container.name}-name",
            "port_mappings": None,
            "network": {**self.network, "network_dns_servers": None},
            "network_options": own,
        }
        return made | keys

    def setup(self, container: Namespace, *addresses: str, **keys: Any) -> dict[str, Any]:
        """Set a container up, which must succeed; return the status block's interface."""
        document = self.document(container, addresses, **keys)
        told = self.call("setup", container.path, document=document).ok()
        (found,) = told["interfaces"].values()
        assert isinstance(found, dict)
        return found

    def refused(self, container: Namespace, *addresses: str, **keys: Any) -> str:
        """Set a container up, which must fail; return what podman shows."""
        document = self.document(container, addresses, **keys)
        return error(self.call("setup", container.path, document=document))

    def teardown(self, container: Namespace, *addresses: str, **keys: Any) -> None:
        """Tear a container down, which must succeed and say nothing."""
        path = keys.pop("path", container.path)
        done = self.call("teardown", path, document=self.document(container, addresses, **keys))
        assert (done.status, done.stdout) == (0, b""), repr(done)


def error(call: CniCall) -> str:
    """Return the word of a call that must fail."""
    assert call.status == 1, repr(call)
    assert call.document.keys() == {"error"}, repr(call)
    return str(call.document["error"])

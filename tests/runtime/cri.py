"""Drive containerd by the interface that kubelet speaks: pod sandboxes over gRPC.

A containerd of the test's own, with a sandbox image made from busybox. No pod has a container:
the sandbox's own process is one, and its network namespace the pod's.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Before grpc is imported: the tests start programs all the time.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc

from tests.host import Host, Namespace, wait_until
from tests.runtime.runtimes import CGROUP, CONFIG_DIR, PLUGIN_DIR, end

messages, services = grpc.protos_and_services("tests/runtime/cri.proto")

IMAGE = "faasm.test/pause:1"
CONFIG = """version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "{directory}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
restrict_oom_score_adj = true
disable_tcp_service = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{configs}"
conf_template = "{template}"
"""


class Cri:
    """A containerd, as a node's kubelet has it. within: what runs a command in another root."""

    def __init__(
        self,
        host: Host,
        directory: Path,
        *,
        template: Path | None = None,
        within: Sequence[str] = (),
    ) -> None:
        self.host = host
        self.directory = directory
        self.pods: list[str] = []
        config = directory / "config.toml"
        config.write_text(
            CONFIG.format(
                directory=directory,
                image=IMAGE,
                plugins=PLUGIN_DIR,
                configs=CONFIG_DIR,
                template=template or "",
            ),
            encoding="utf-8",
        )
        with (directory / "containerd.log").open("wb") as log:
            self._daemon = host.start([*within, "containerd", "--config", str(config)], stdout=log)
        socket = directory / "containerd.sock"
        self._channel = grpc.insecure_channel(f"unix://{socket}")
        self._service = services.RuntimeServiceStub(self._channel)
        wait_until(self._is_up, "containerd to answer", timeout=30)
        make_image(directory / "image.tar")
        ctr = [*within, "ctr", "--address", str(socket), "--namespace", "k8s.io"]
        options = ["--snapshotter", "native", "--local"]
        done = host.run([*ctr, "images", "import", *options[:2], str(directory / "image.tar")])
        assert IMAGE in done.stdout, done.stdout

    def _is_up(self) -> bool:
        assert self._daemon.poll() is None, (self.directory / "containerd.log").read_text()
        with contextlib.suppress(grpc.RpcError):
            self._service.Status(messages.StatusRequest(), timeout=1)
            return True
        return False

    def network_is_ready(self) -> bool:
        """Say what kubelet would hear about the network."""
        answer = self._service.Status(messages.StatusRequest(), timeout=10)
        return any(one.status for one in answer.status.conditions if one.type == "NetworkReady")

    def give_cidr(self, pod_cidr: str) -> None:
        """Tell the node's share of the cluster's addresses, as kubelet does."""
        network = messages.NetworkConfig(pod_cidr=pod_cidr)
        config = messages.RuntimeConfig(network_config=network)
        request = messages.UpdateRuntimeConfigRequest(runtime_config=config)
        self._service.UpdateRuntimeConfig(request, timeout=10)

    def run(
        self,
        name: str,
        annotations: dict[str, str] | None = None,
        *,
        ports: Sequence[tuple[int, int]] = (),
    ) -> str:
        """Run a pod's sandbox; return its id. ports: of the host, and of the pod, of TCP."""
        mappings = [messages.PortMapping(host_port=one, container_port=two) for one, two in ports]
        config = messages.PodSandboxConfig(
            metadata=messages.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="test"),
            hostname=name,
            port_mappings=mappings,
            annotations=annotations or {},
            linux=messages.LinuxPodSandboxConfig(cgroup_parent=f"/{CGROUP}"),
        )
        answer = self._service.RunPodSandbox(
            messages.RunPodSandboxRequest(config=config), timeout=60
        )
        pod: str = answer.pod_sandbox_id
        self.pods.append(pod)
        return pod

    def addresses(self, pod: str) -> list[str]:
        """Return a pod's addresses as kubelet hears them."""
        network = self._status(pod).status.network
        return [network.ip, *(one.ip for one in network.additional_ips)]

    def namespace(self, pod: str) -> Namespace:
        """Return a pod's network namespace."""
        info = json.loads(self._status(pod).info["info"])
        return Namespace(pod, path=f"/proc/{info['pid']}/ns/net")

    def _status(self, pod: str) -> Any:
        request = messages.PodSandboxStatusRequest(pod_sandbox_id=pod, verbose=True)
        return self._service.PodSandboxStatus(request, timeout=10)

    def stop(self, pod: str) -> None:
        self._service.StopPodSandbox(messages.StopPodSandboxRequest(pod_sandbox_id=pod), timeout=60)

    def remove(self, pod: str) -> None:
        request = messages.RemovePodSandboxRequest(pod_sandbox_id=pod)
        self._service.RemovePodSandbox(request, timeout=60)
        self.pods.remove(pod)

    def close(self) -> None:
        """Take the pods away, and end containerd."""
        for pod in list(self.pods):
            with contextlib.suppress(grpc.RpcError):
                self.stop(pod)
                self.remove(pod)
        self._channel.close()
        end(self._daemon)


def make_image(path: Path, name: str = IMAGE, *, sleeps: bool = True) -> None:
    """Make an OCI archive of one layer with busybox. sleeps: when no command is given."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.add(str(shutil.which("busybox")), "bin/busybox", recursive=False)
        for applet in ("ip", "sh"):
            member = tarfile.TarInfo(f"bin/{applet}")
            member.type, member.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(member)
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        media_type = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    layer_blob = blob(layer.getvalue(), "layer.v1.tar")
    command = ["/bin/busybox", "sleep", "100000"] if sleeps else ["/bin/sh"]
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {"Cmd": command, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer_blob["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": [layer_blob],
    }
    described = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    described["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name,
    }
    index = {"schemaVersion": 2, "manifests": [described]}
    with tarfile.open(path, "w") as archive:
        for file_name, data in (
            ("oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode()),
            ("index.json", json.dumps(index).encode()),
            *((f"blobs/sha256/{digest}", data) for digest, data in blobs.items()),
        ):
            member = tarfile.TarInfo(file_name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

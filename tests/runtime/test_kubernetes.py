"""The manifests against Kubernetes' schemas, and the installer in containers made from them."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.host import REPO, Host, wait_until
from tests.runtime.runtimes import CGROUP, Podman, remove_cgroups
from tests.runtime.test_install import run, version_of

MANIFEST = REPO / "deploy/kubernetes/cni-faasm.yaml"
WATCH = MANIFEST.with_name("cni-faasm-watch.yaml")
CAPABILITIES = ("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE")
OLDEST = 25  # Kubernetes 1.25, as the manifests say
PLUGIN = Path("/opt/cni/bin/faasm")
FOLDER = Path("/usr/lib/cni-faasm")
CONFIG = Path("/etc/cni/net.d/10-faasm.conflist")


def documents(manifest: Path = MANIFEST) -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all(manifest.read_text())}


def versions() -> list[str]:
    """Return the versions of Kubernetes whose schemas are there, from the oldest that is named."""
    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    found = {int(each.name.split(".")[1]) for each in folder.glob("v1.*-local-strict")}
    return [f"1.{minor}" for minor in sorted(found) if minor >= OLDEST]


@pytest.mark.parametrize("manifest", [MANIFEST, WATCH], ids=lambda path: path.stem)
def test_the_manifests_are_valid(manifest: Path) -> None:
    assert f"Kubernetes 1.{OLDEST} or later" in manifest.read_text(encoding="utf-8")
    assert {f"1.{OLDEST}", "1.37"} <= set(versions())
    for document in documents(manifest).values():
        for version in versions():
            kubernetes_validate.validate(document, version, strict=True)


def test_the_template_is_the_one_that_is_tested_with_containerd() -> None:
    (text,) = documents()["ConfigMap"]["data"].values()
    assert text == (REPO / "conf/10-faasm.conflist.template").read_text(encoding="utf-8")


def test_the_watch_may_not_write_but_where_it_must() -> None:
    spec = documents(WATCH)["DaemonSet"]["spec"]["template"]["spec"]
    writable = set()
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert (context["privileged"], context["allowPrivilegeEscalation"]) == (False, False)
        assert context["capabilities"] == {"drop": ["ALL"], "add": list(CAPABILITIES)}
        for mount in container["volumeMounts"]:
            if not mount.get("readOnly"):
                writable.add((container["name"], mount["mountPath"]))
    assert writable == {("gc", "/var/lib/cni")}
    installer = documents()["DaemonSet"]["spec"]["template"]["spec"]["initContainers"][0]
    assert {each["image"] for each in spec["containers"]} == {installer["image"]}


def test_no_right_that_is_not_needed() -> None:
    spec = documents()["DaemonSet"]["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    for container in (*spec["initContainers"], *spec["containers"]):
        context = container["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        assert (context["privileged"], context["allowPrivilegeEscalation"]) == (False, False)
    paths = {each["hostPath"]["path"] for each in spec["volumes"] if "hostPath" in each}
    assert paths == {str(FOLDER), str(PLUGIN.parent), str(CONFIG.parent)}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("image") / "root"
    run(REPO / "deploy/kubernetes/image-root.sh", root)
    return root


class Pods:
    """Run the installer as the DaemonSet's containers do, without a capability."""

    def __init__(self, image: Path, directory: Path) -> None:
        self.image = image
        self.node = directory / "node"
        self.config = directory / "config"
        self.config.mkdir()
        self.write("10.200.0.0/16")
        for each in (FOLDER, PLUGIN.parent, CONFIG.parent):
            self.below(each).mkdir(parents=True)

    def below(self, path: Path) -> Path:
        return self.node / path.relative_to("/")

    def write(self, subnet: str) -> None:
        shipped = (REPO / "conf/10-faasm.conflist").read_text()
        (self.config / CONFIG.name).write_text(shipped.replace("10.200.0.0/16", subnet))

    def start(
        self, owner: str, *options: str, before: Sequence[str] = ()
    ) -> "subprocess.Popen[str]":
        script = (
            'for each in usr/lib/cni-faasm opt/cni/bin etc/cni/net.d; do '
            'mount --bind "$1/$each" "$2/host/$each"; done; '
            'mkdir -p "$2/proc"; mount --rbind /proc "$2/proc"; '
            'mount --bind "$3" "$2/config"; shift 3; exec "$@"'
        )  # fmt: skip
        return subprocess.Popen(
            [
                *before,
                *("unshare", "--mount", "sh", "-ec", script, "sh"),
                *(str(self.node), str(self.image), str(self.config)),
                *("setpriv", "--no-new-privs", "--bounding-set", "-all,+sys_chroot"),
                *("--inh-caps", "-all", "chroot", str(self.image)),
                *("/bundle/cni-faasm", "node-install", "--config", "/config"),
                *("--interval", "0.2", *options),
            ],
            env={"POD_UID": owner, "PATH": os.environ["PATH"]},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def once(self, owner: str) -> None:
        with self.start(owner, "--once") as process:
            assert process.wait(60) == 0, process.communicate()

    def plugin(self) -> Path:
        """Return the executable: the link is absolute, right on the node alone."""
        assert os.readlink(self.below(PLUGIN)) == f"{FOLDER}/current/faasm"
        return self.below(FOLDER) / "current/faasm"

    def left(self) -> list[Path]:
        return [each for each in self.node.rglob("*") if not each.is_dir() or each.is_symlink()]


@pytest.fixture
def pods(image: Path, tmp_path: Path) -> Pods:
    return Pods(image, tmp_path)


def heed_sigterm(process: "subprocess.Popen[str]") -> bool:
    """Say whether a process would clear up on SIGTERM; before it has come so far it just ends."""
    [caught] = re.findall(
        r"^SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE
    )
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def keeper_of(pods: Pods, owner: str) -> "subprocess.Popen[str]":
    """Start what keeps an installation, and wait until it does."""
    process = pods.start(owner)
    wait_until(lambda: heed_sigterm(process), "the installer to begin", timeout=60)
    return process


def end(process: "subprocess.Popen[str]") -> str:
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output


def test_it_installs_updates_and_goes(pods: Pods) -> None:
    pods.once("first")
    assert version_of(pods.plugin()) == "1.1.0"
    keeper = keeper_of(pods, "first")
    pods.write("10.99.0.0/16")
    wait_until(lambda: "10.99" in pods.below(CONFIG).read_text(), "the new file", timeout=60)
    pods.config.joinpath(CONFIG.name).write_text("{")
    time.sleep(0.5)
    assert "10.99" in pods.below(CONFIG).read_text()
    end(keeper)
    assert pods.left() == []


def test_the_probe(pods: Pods) -> None:
    def probe() -> tuple[int, str]:
        with pods.start("first", "--probe") as process:
            output, _ = process.communicate(timeout=60)
        return process.returncode, output

    status, told = probe()
    assert (status, "does not lead to" in told) == (1, True)
    assert pods.left() == []
    pods.once("first")
    assert probe() == (0, "all is installed\n")
    pods.below(CONFIG).write_text("{}")
    assert probe()[0] == 1
    assert pods.below(CONFIG).read_text() == "{}"


def test_a_node_without_portmap(pods: Pods) -> None:
    """The list is installed without it, as a template, too; and with it once it is there."""
    template = REPO / "conf/10-faasm.conflist.template"
    entry = ',\n    { "type": "portmap", "capabilities": { "portMappings": true } }'
    head, end, tail = template.read_text().rpartition("\n  ]\n")
    (pods.config / template.name).write_text(f"{head}{entry}{end}{tail}")
    listed = json.loads((pods.config / CONFIG.name).read_text())
    listed["plugins"].append({"type": "portmap", "capabilities": {"portMappings": True}})
    (pods.config / CONFIG.name).write_text(json.dumps(listed, indent=2))
    pods.once("first")
    installed = json.loads(pods.below(CONFIG).read_text())
    assert [each["type"] for each in installed["plugins"]] == ["faasm"]
    shortened = pods.below(CONFIG.with_name(template.name)).read_text()
    assert shortened == template.read_text()
    pods.below(PLUGIN.with_name("portmap")).write_text("")
    pods.once("first")
    assert json.loads(pods.below(CONFIG).read_text()) == listed
    restored = pods.below(CONFIG.with_name(template.name)).read_text()
    assert restored == f"{head}{entry}{end}{tail}"


def test_metrics_and_garbage_in_a_container(image: Path, host: Host) -> None:
    """With the capabilities and the mounts of the manifest, and no others."""
    host.plugin = [str(image / "bundle/faasm")]
    config = host.config(bandwidth={"egressRate": "10M"})
    kept, lost = host.add_container(), host.add_container()
    for inside in (kept, lost):
        host.add(inside, config)
    (host.directory / "net.d").mkdir()
    (host.directory / "net.d/10-testnet.conf").write_text(json.dumps(config))

    def run_within(*words: str) -> str:
        script = (
            'mount --bind "$2" "$1/etc/cni/net.d"; mkdir -p "$1$3"; mount --rbind "$3" "$1$3"; '
            'mount --rbind /run/netns "$1/var/run/netns"; mount --make-rslave "$1/var/run/netns"; '
            'mkdir -p "$1/run/netns"; mount --rbind /run/netns "$1/run/netns"; '
            'mkdir -p "$1/run/cni-faasm"; mount --bind /run/cni-faasm "$1/run/cni-faasm"; '
            'mount -o remount,bind,ro "$1/run/cni-faasm"; '
            'mount --rbind /proc "$1/proc"; shift 3; exec "$@"'
        )
        capabilities = ",".join(f"+{name.lower()}" for name in (*CAPABILITIES, "SYS_CHROOT"))
        folder = str(host.directory)
        with host.entered():
            done = subprocess.run(
                [
                    *("unshare", "--mount", "sh", "-ec", script, "sh"),
                    *(str(image), f"{folder}/net.d", folder),
                    *("setpriv", "--no-new-privs", "--bounding-set", f"-all,{capabilities}"),
                    *("--inh-caps", "-all", "chroot", str(image), "/bundle/cni-faasm", *words),
                ],
                capture_output=True, text=True, check=False, timeout=120,
            )  # fmt: skip
        assert done.returncode in {0, 124}, done
        return done.stdout

    told = run_within("metrics")
    drifts = re.findall(r"^cni_faasm_drifts\{.*\} (.*)$", told, re.MULTILINE)
    assert drifts == ["0.0", "0.0"]
    assert 'cni_faasm_call_duration_seconds_count{verb="ADD"}' in told
    lost.delete()
    assert f"removed attachment {lost.name} eth0" in run_within("gc")
    assert len(host.records()) == 1
    assert kept.link("eth0") is not None


def test_a_replaced_pod_takes_nothing_away(pods: Pods) -> None:
    keeper = pods.start("first")
    wait_until(lambda: pods.below(CONFIG).exists(), "the installation", timeout=60)
    pods.once("second")
    assert "taken over" in end(keeper)
    assert version_of(pods.plugin()) == "1.1.0"


def test_what_was_interrupted_is_cleared(pods: Pods) -> None:
    folder = pods.below(FOLDER)
    # In the middle of copying, which may be over before anybody has looked.
    strace = ["strace", "-f", "-qq", "-e", "trace=sendfile"]
    with pods.start(
        "first", before=[*strace, "-e", "inject=sendfile:signal=KILL:when=3"]
    ) as killed:
        output, _ = killed.communicate(timeout=120)
    assert list(folder.glob(".new.*")), output
    assert not pods.below(PLUGIN).is_symlink()
    pods.once("first")
    assert not list(folder.glob(".new.*"))
    assert version_of(pods.plugin()) == "1.1.0"


def test_a_running_call_keeps_its_bundle(pods: Pods) -> None:
    pods.once("first")
    keeper = keeper_of(pods, "first")
    with subprocess.Popen(
        [pods.plugin()], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={"CNI_COMMAND": "VERSION"},
    ) as call:  # fmt: skip
        keeper.send_signal(signal.SIGTERM)
        wait_until(lambda: not os.path.lexists(pods.below(PLUGIN)), "the link to go", timeout=60)
        time.sleep(1.5)
        assert list(pods.below(FOLDER).glob("*/faasm"))
        output, _ = call.communicate(b'{"cniVersion": "1.0.0"}', timeout=60)
        assert b"1.1.0" in output
    keeper.communicate(timeout=60)
    assert pods.left() == []


def test_in_a_container(pods: Pods, runtime_host: Host, short_path: Path) -> None:
    """As the DaemonSet runs it: read-only, without a capability, without a network."""
    podman = Podman(runtime_host, pods.image, short_path)
    volumes = [f"{pods.config}:/config:ro"]
    volumes += [
        f"{pods.below(each)}:/host{each}" for each in (FOLDER, PLUGIN.parent, CONFIG.parent)
    ]
    podman.command(
        *("run", "--detach", "--name", "node", "--cgroup-parent", f"/{CGROUP}"),
        *("--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000"),
        *("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges"),
        *("--network", "none", "--env", "POD_UID=first"),
        *(word for volume in volumes for word in ("--volume", volume)),
        *("--rootfs", str(pods.image), "/bundle/cni-faasm"),
        *("node-install", "--config", "/config", "--interval", "0.2"),
    )
    podman.running.append("node")
    try:
        wait_until(lambda: pods.below(CONFIG).exists(), "the installation", timeout=60)
        assert version_of(pods.plugin()) == "1.1.0"
        podman.command("stop", "--time", "40", "node")
        assert pods.left() == []
    finally:
        podman.close()
        remove_cgroups()

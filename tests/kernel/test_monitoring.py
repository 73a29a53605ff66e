"""The rules and the dashboard for operators, in Debian's Prometheus on what the tool serves."""

import contextlib
import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.attached import add_remote
from tests.host import REPO, Host, wait_until
from tests.kernel.test_cli_looking import plugin_config, send
from tests.tool import Tool

FOLDER = REPO / "deploy/monitoring"
RULES = FOLDER / "cni-faasm.rules.yml"
DASHBOARD = json.loads((FOLDER / "cni-faasm.dashboard.json").read_text())
# What is empty where nothing is wrong.
EMPTY = ("At their limits now",)
# What Grafana puts in.
VARIABLES = {"$__rate_interval": "1m", "$instance": ".*", "$network": "testnet"}


def rules() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries() -> list[tuple[str, str]]:
    """Return (title of the panel, query) of the whole dashboard."""
    found = []
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            text = target["expr"]
            for name, value in VARIABLES.items():
                text = text.replace(name, value)
            assert "$" not in text
            found.append((panel["title"], text))
    return found


def test_the_rules_say_what_their_tests_say() -> None:
    for words in (("check", "rules", RULES.name), ("test", "rules", "cni-faasm.rules.test.yml")):
        done = subprocess.run(
            ["promtool", *words], cwd=FOLDER, capture_output=True, text=True, check=False
        )
        assert (done.returncode, "FAILED" in done.stdout) == (0, False), done
    tested = yaml.safe_load((FOLDER / "cni-faasm.rules.test.yml").read_text())["tests"]
    named = {each["alertname"] for test in tested for each in test["alert_rule_test"]}
    assert named == {rule["alert"] for rule in rules() if "alert" in rule}


def test_each_alert_has_its_section() -> None:
    """The anchor is the heading, as it is made of it everywhere."""
    page = (REPO / "docs/operating.md").read_text(encoding="utf-8")
    heads = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
    for rule in rules():
        if "alert" in rule:
            file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
            assert (file, anchor in anchors) == ("docs/operating.md", True), rule["alert"]


def test_no_panel_lies_upon_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells
        assert place["x"] + place["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.fixture
def tool(bare_host: Host) -> Tool:
    add_remote(bare_host)
    tool = Tool(bare_host)
    tool.network(isolated=True, bandwidth={"ingressRate": "8M", "egressRate": "8M"})
    return tool


class Prometheus:
    """Ask a Prometheus of Debian's that runs in a host's namespace."""

    def __init__(self, host: Host, port: int) -> None:
        self.host = host
        self.port = port

    def get(self, path: str, **parameters: str) -> Any:
        with self.host.entered():
            opened = urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}{path}?{urllib.parse.urlencode(parameters)}",
                timeout=20,
            )
        with opened as answer:
            document = json.load(answer)
        assert document["status"] == "success", document
        return document["data"]

    def query(self, text: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/api/v1/query", query=text)["result"]
        return found

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.query("cni_faasm:limit_use:ratio"))
        return False


@contextlib.contextmanager
def prometheus(host: Host, target: str, folder: Path) -> Iterator[Prometheus]:
    """Run it with what is in deploy/monitoring, but every half second and on a target."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(config["global"], "500ms")
    config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
    [job] = config["scrape_configs"]
    job["static_configs"] = [{"targets": [target]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        "--web.listen-address=127.0.0.1:9090", "--log.level=warn",
    ]  # fmt: skip
    with host.entered(), (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        one = Prometheus(host, 9090)
        wait_until(one.is_ready, f"Prometheus ({folder}/log)", timeout=60)
        yield one
    finally:
        process.terminate()
        process.wait(20)


def test_prometheus_scrapes_and_answers_the_dashboard(tool: Tool, tmp_path: Path) -> None:
    host = tool.host
    inside = host.add_container()
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1"
    host.add(inside, plugin_config(tool), args=args)
    host.cni("ADD", inside, plugin_config(tool)).error(102)
    send(inside, 100_000)
    tool("gc").ok()
    with tool.start("metrics", "--listen", "0") as serving:
        assert serving.stderr is not None
        [target] = re.findall(r"http://(\S+)/metrics", serving.stderr.readline())
        try:
            with prometheus(host, target, tmp_path) as one:
                host.cni("ADD", inside, plugin_config(tool)).error(102)
                wait_until(lambda: one.query("cni_faasm:call_errors:ratio"), "the failed ADD", 30)
                [up] = one.query("up")
                assert up["value"][1] == "1"
                for title, text in queries():
                    assert one.query(text) or title in EMPTY, (title, text)
                [sent] = one.query(dict(queries())["Sent, the ten busiest"])
                assert (sent["metric"]["namespace"], sent["metric"]["pod"]) == ("shop", "web-1")
                groups = one.get("/api/v1/rules")["groups"]
                health = [rule["health"] for group in groups for rule in group["rules"]]
                assert health == ["ok"] * len(rules())
                known = set(one.get("/api/v1/label/__name__/values"))
                listed = [*(text for _, text in queries()), *(rule["expr"] for rule in rules())]
                named = {each for text in listed for each in re.findall(r"\bcni_faasm[:\w]+", text)}
                assert named <= known
        finally:
            serving.terminate()

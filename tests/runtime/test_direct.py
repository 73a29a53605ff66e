"""Call the built executable as a runtime's code does, one verb after the other."""

from typing import Any

import pytest

from tests.host import Host, Namespace

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")


@pytest.fixture
def config(runtime_host: Host) -> dict[str, Any]:
    limits = {"ingressRate": 20_000_000, "egressRate": 10_000_000}
    return runtime_host.config(name="direct", ipMasq=True, bandwidth=limits)


def at_least(version: str, wanted: str) -> bool:
    return VERSIONS.index(version) >= VERSIONS.index(wanted)


def addresses_of(result: dict[str, Any], version: str) -> list[str]:
    """Return the addresses of a result in the shape of its version."""
    if not at_least(version, "0.3.0"):
        return [result["ip4"]["ip"]]
    return [ip["address"] for ip in result["ips"]]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_life_in_every_version(runtime_host: Host, config: dict[str, Any], version: str) -> None:
    host = runtime_host
    inside = host.add_container()
    config["cniVersion"] = version
    before = host.snapshot()
    if at_least(version, "1.1.0"):
        assert host.cni("STATUS", None, config).ok() == {}

    result = host.add(inside, config)
    assert result["cniVersion"] == version
    assert addresses_of(result, version) == inside.addresses("eth0")
    inside.run(["busybox", "ping", "-c", "1", "-W", "5", "198.51.100.1"])

    check = host.check(inside, config, result)
    if at_least(version, "0.4.0"):
        check.ok()
    else:
        check.error()

    host.delete_attachment(inside, config | {"prevResult": result})
    host.delete_attachment(inside, config)
    host.delete_attachment("", config, container_id=inside.name)
    assert inside.links() == []
    host.assert_unchanged(before, ignore={"nft"})

    collect = host.cni("GC", None, {**config, "cni.dev/valid-attachments": []})
    if at_least(version, "1.1.0"):
        collect.ok()
        host.assert_unchanged(before)
    else:
        collect.error()


@pytest.mark.parametrize("version", VERSIONS)
def test_version_is_answered_in_any_version(runtime_host: Host, version: str) -> None:
    answer = runtime_host.cni("VERSION", None, {"cniVersion": version}).ok()
    assert answer["supportedVersions"] == list(VERSIONS)


def test_by_hand_it_says_what_it_is(runtime_host: Host) -> None:
    done = runtime_host.run(runtime_host.plugin)
    assert "cni-faasm" in done.stderr
    for version in VERSIONS:
        assert version in done.stderr


def test_garbage_collection_takes_what_is_not_valid(
    runtime_host: Host, config: dict[str, Any]
) -> None:
    host = runtime_host
    before = host.snapshot()
    kept, lost = host.add_container(), host.add_container()
    result = host.add(kept, config)
    host.add(lost, config)
    valid = [{"containerID": kept.name, "ifname": "eth0"}]
    host.cni("GC", None, {**config, "cni.dev/valid-attachments": valid}).ok()
    assert lost.links() == []
    assert len(host.leases()) == len(host.records()) == 1
    host.check(kept, config, result).ok()

    host.cni("GC", None, {**config, "cni.dev/valid-attachments": []}).ok()
    host.containers = [c for c in host.containers if c not in (kept, lost)]
    after: list[Namespace] = [kept, lost]
    host.assert_unchanged(before)
    for namespace in after:
        assert namespace.links() == []
        namespace.delete()

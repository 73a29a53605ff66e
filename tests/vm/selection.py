"""What is done on each of Debian's kernels: checks of tests/vm/jobs, and tests that exist.

A call takes 0.1 to 0.5 s there, so it is what differs between kernels: what they answer, which
modules they have, what packets do.

    python -m tests.vm.selection ARGUMENT...     what fetch.sh must fetch for pytest's arguments,
                                                 and for tests/roots
"""

import argparse
import sys
from collections.abc import Sequence

# The newest comes with every run, and the one of Debian 12.
KERNELS = ("bookworm", "sid")
ALL_KERNELS = ("bullseye", "bookworm", "trixie", "sid")
# Of tests/vm/roots.txt, what tests boot.
ROOTS = ("bookworm",)
# Whose own podman, with netavark in the place of CNI, is booted with their kernel under --soak
# (tests/vm/test_podman.py).
PODMAN = ("trixie",)
# Which is booted in slots (tests/vm/test_slots.py).
OF_SLOTS = "bookworm"
# What tests/roots runs things in, and boots under --soak.
OTHER_RELEASES = ("bullseye-tools", "trixie-tools")
PACKAGED_FOR = "bookworm"  # beside Debian 13
ARM64 = "bookworm-arm64"

JOBS = (
    "tests/vm/jobs/gc.py",
    "tests/vm/jobs/verbs.py",
    "tests/vm/jobs/subnets.py",
    "tests/vm/jobs/egress.py",
    "tests/vm/jobs/traffic.py",
    "tests/vm/jobs/drift.py",
    "tests/vm/jobs/memory.py",
    "tests/vm/jobs/modules.py",
    "tests/kernel/test_backstop.py::test_who_sends_past_his_queue[built-4-1000000-1400]",
    "tests/kernel/test_chained.py::test_add_check_del",
    "tests/kernel/test_enforce_egress.py::test_gc_finds_what_a_dead_namespace_leaves",
    *(
        f"tests/kernel/test_first_packet.py::test_it_arrives[{variant}]"
        for variant in ("unlimited", "limited", "enforced on the host")
    ),
    "tests/kernel/test_first_packet.py::test_the_host_knows_a_mac_that_it_is_not_made_to_forget",
    "tests/kernel/test_guard.py::test_addresses[built-6]",
    "tests/kernel/test_guard.py::test_arp[built-request]",
    "tests/kernel/test_guard.py::test_isolated[built-4]",
    "tests/kernel/test_marks.py",
    "tests/kernel/test_nat.py::test_masquerade_is_one_rule_set_for_all_containers",
    "tests/kernel/test_nat.py::test_forwarding_where_the_policy_is_drop",
    "tests/kernel/test_netlink_link.py",
    "tests/kernel/test_netlink_nft.py",
    "tests/kernel/test_netlink_tc.py",
    "tests/kernel/test_netlink_transport.py",
    "tests/kernel/test_ports.py::test_from_everywhere",
    "tests/kernel/test_ports.py::test_sctp",
    "tests/kernel/test_own_tables.py::test_only_the_very_table_that_was_looked_at_is_deleted",
)
# Grids of cases that ask much the same of a kernel: only their first and last, but for --soak.
GRIDS = (
    "tests/kernel/test_netlink_nft.py::test_a_match_is_what_nft_itself_makes",
    "tests/kernel/test_netlink_nft.py::test_a_transaction_is_all_or_nothing_and_names_the_culprit",
    "tests/kernel/test_netlink_nft.py::test_iptables_lists_our_rules_as_its_own",
    "tests/kernel/test_netlink_tc.py::test_every_rate",
    "tests/kernel/test_netlink_tc.py::test_tc_prints_the_burst_that_was_asked",
    "tests/kernel/test_netlink_transport.py::test_a_malformed_answer_spoils_no_later_exchange",
    "tests/kernel/test_netlink_transport.py::test_every_message_of_a_large_batch_is_answered",
    "tests/vm/jobs/subnets.py::test_packets_go_where_they_should",
)
# Of what takes long, the cases that every run has: the rest is for --soak.
CASES = {
    "tests/kernel/test_first_packet.py::test_it_arrives": ("unlimited", "enforced on the host"),
    "tests/vm/jobs/modules.py::test_what_is_missing_is_named": (
        "built-sch_htb ifb act_mirred nft_masq nft_fib_inet nft_ct",
    ),
    "tests/vm/jobs/modules.py::test_who_masquerades_and_guards_nothing_needs_no_nf_tables": (
        "built-nft_limit",
    ),
    "tests/vm/jobs/traffic.py::test_goodput_and_delay": ("built-1M-from", "built-10M-to"),
    "tests/vm/jobs/verbs.py::test_add_check_del": ("built-IPv6", "built-both"),
    "tests/vm/jobs/verbs.py::test_status": ("built-both",),
}
# Whole files for the long run.
LONG_JOBS = (
    "tests/kernel/test_add_del.py",
    "tests/kernel/test_backstop.py",
    "tests/kernel/test_backstop_places.py",
    "tests/kernel/test_chained.py",
    "tests/kernel/test_enforce_egress.py",
    "tests/kernel/test_gc_status.py",
    "tests/kernel/test_guard.py",
    "tests/kernel/test_nat.py",
    "tests/kernel/test_own_tables.py",
    "tests/kernel/test_slots_machines.py",
    "tests/kernel/test_subnets.py",
)
# What is done in a root of its own, on its suite's kernel, in this order: with firewalld
# under systemd, or with systemd alone.
POWER_CUT = "tests/vm/jobs/power.py"
SYSTEM_JOBS = {
    "bookworm-firewalld": ("tests/vm/jobs/firewalld.py",),
    "bookworm-systemd": (POWER_CUT, "tests/vm/jobs/systemd.py"),
    "trixie-firewalld": ("tests/vm/jobs/firewalld.py",),
    "trixie-systemd": (POWER_CUT, "tests/vm/jobs/systemd.py"),
}
SYSTEMS = ("bookworm-firewalld", "bookworm-systemd")
# Left to the long run. What a power cut leaves and the first ADD after it, what is installed,
# and networkd at its start, its restart and for new attachments are in each; drifts are looked for
# together; and the plugin's own rules take the place of those that the netlink layer's tests make.
LONG_CHECKS = (
    "tests/kernel/test_marks.py::test_del_of_what_a_kill_left_before_the_alias",
    "tests/kernel/test_marks.py::test_del_without_a_record_leaves_another_plugins_pair",
    "tests/kernel/test_netlink_nft.py::test_forwarding_through_a_dropping_chain",
    "tests/kernel/test_netlink_nft.py::test_traffic_is_masqueraded",
    "tests/kernel/test_netlink_transport.py::test_a_socket_stays_in_its_namespace",
    "tests/kernel/test_netlink_transport.py::test_the_descriptor_is_not_inherited",
    "tests/kernel/test_netlink_transport.py::test_a_closed_socket_is_closed",
    "tests/kernel/test_netlink_transport.py::test_nothing_costs_nothing",
    "tests/kernel/test_netlink_transport.py::test_silence_ends_in_a_timeout",
    "tests/vm/jobs/drift.py::test_each_drift_is_named",
    f"{POWER_CUT}::test_what_the_tool_says_of_it",
    f"{POWER_CUT}::test_a_full_range",
    f"{POWER_CUT}::test_gc_where_no_container_comes",
    "tests/vm/jobs/systemd.py::test_the_service_of_an_earlier_version_goes",
    "tests/vm/jobs/systemd.py::test_udev_leaves_name_and_address_alone",
    "tests/vm/jobs/systemd.py::test_networkd[DHCP]",
    "tests/vm/jobs/systemd.py::test_networkd_without_the_file",
    "tests/vm/jobs/systemd.py::test_installed_while_networkd_runs",
    "tests/vm/jobs/systemd.py::test_sections_are_understood_as_networkd_does",
    "tests/vm/jobs/systemd.py::test_networkmanager[]",
    "tests/vm/jobs/systemd.py::test_networkmanager[none]",
    "tests/vm/jobs/systemd.py::test_uninstalled",
)


def kernels(names: str | None, *, soak: bool) -> tuple[str, ...]:
    """Return the suites whose kernels are booted, by the values of --kernels and --soak."""
    if names:
        return tuple(names.split(","))
    return ALL_KERNELS if soak else KERNELS


def systems(names: str | None, *, soak: bool) -> tuple[str, ...]:
    """Return the roots of SYSTEM_JOBS that are booted, by the same values."""
    chosen = tuple(SYSTEM_JOBS) if soak or names else SYSTEMS
    return tuple(one for one in chosen if not names or suite_of(one) in names.split(","))


def suite_of(system: str) -> str:
    """Return the suite of a root."""
    return system.partition("-")[0]


def thinned(checks: Sequence[str]) -> list[str]:
    """Return the checks of every run: of GRIDS and CASES what is said there.

    Raises: LookupError for a case that no check has.
    """
    left_out = {
        check for check in checks if not {check, check.partition("[")[0]}.isdisjoint(LONG_CHECKS)
    }
    for grid in GRIDS:
        left_out |= set([check for check in checks if check.startswith(f"{grid}[")][1:-1])
    for test, cases in CASES.items():
        found = {check for check in checks if check.startswith(f"{test}[")}
        kept = {f"{test}[{case}]" for case in cases}
        if found and kept - found:
            raise LookupError(f"tests/vm/selection.py: no {', '.join(sorted(kept - found))}")
        left_out |= found - kept
    return [check for check in checks if check not in left_out]


def needed(arguments: Sequence[str]) -> list[str]:
    """Return the kernels and roots that a run of pytest with these arguments boots."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--kernels")
    parser.add_argument("--soak", action="store_true")
    known, rest = parser.parse_known_args(arguments)
    paths = [one.rstrip("/") for one in rest if one.startswith("tests")]

    def are_run(folder: str) -> bool:
        return not paths or any(one == "tests" or one.startswith(folder) for one in paths)

    found: list[str] = []
    if are_run("tests/vm"):
        chosen = kernels(known.kernels, soak=known.soak)
        whole = systems(known.kernels, soak=known.soak)
        suites = dict.fromkeys((*chosen, *map(suite_of, whole)))
        found += (f"kernel/{suite}" for suite in suites)
        roots = (*ROOTS, *whole, *(f"{suite}-podman" for suite in chosen if suite in PODMAN))
        found += (f"root/{root}" for root in roots)
    if are_run("tests/roots"):
        found += (f"root/{root}" for root in (*OTHER_RELEASES, PACKAGED_FOR))
        if known.soak:
            found += (f"kernel/{ARM64}", f"root/{ARM64}")
    return found


if __name__ == "__main__":
    print("\n".join(needed(sys.argv[1:])))

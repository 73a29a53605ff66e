"""Which columns a narrow terminal shows, and where cells and lines are broken."""

import io
import itertools
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from cni_faasm.cli import fitting
from cni_faasm.cli.network_check import show
from cni_faasm.cli.network_check.model import EGRESS, INGRESS, OK, Row


@pytest.mark.parametrize(
    ("room", "shown"),
    [
        (None, "KLMN"),
        (33, "KLMN"),
        (32, "KMN"),
        (25, "KMN"),
        (24, "KLN"),  # without M, the L that had gone first fits again
        (22, "KLN"),
        (21, "KN"),
        (5, "KN"),  # what may not go stays
    ],
)
def test_columns_go_in_their_order_and_none_without_need(room: int | None, shown: str) -> None:
    found = fitting.places("KLMN", [5, 6, 9, 7], room, "LM")
    assert "".join("KLMN"[place] for place in found) == shown


def test_a_width_is_shared_where_it_lacks_most() -> None:
    assert fitting.shares([(3, 3), (4, 20), (5, 10)], 30) == [3, 19, 8]
    assert fitting.shares([(3, 3), (4, 6)], 30) == [3, 6]
    assert fitting.shares([(3, 8), (4, 9)], 5) == [3, 4]


def test_lines_break_between_words_only() -> None:
    text = "put one there, like /etc/netns/a-very-long-name/resolv.conf and so on"
    lines = fitting.filled(text, 20, "  ").splitlines()
    assert "  /etc/netns/a-very-long-name/resolv.conf" in lines
    assert " ".join(line.strip() for line in lines) == text
    assert fitting.filled(text, None) == text


def shown(width: int, draw: Any, check: Any) -> list[str]:
    out = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    draw(out, check)
    return cast("io.StringIO", out.file).getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_network_check_folds_no_word(width: int) -> None:
    rows = [
        Row(where, direction, 33_550_000, 32_088_000.0, 31_990_000.0, 0.997, 1234, 12.5, "ping",
            9_412_000_000.0, OK)
        for where, direction in itertools.product(("faasmns1", "faasmns10"), (EGRESS, INGRESS))
    ]  # fmt: skip
    words = ("htb 1: root default 0x1", "htb 1:1 rate 33.55 Mbit/s burst 4194 bytes", "fq_codel")
    ends = [
        SimpleNamespace(
            device=name,
            direction=direction,
            words=words,
            differences=[],
            qdisc="",
            shape="",
            leaf="",
        )
        for name, direction in (("faasmp10", EGRESS), ("faasm10", INGRESS))
    ]
    plan = SimpleNamespace(mtu=1500)
    target = SimpleNamespace(name="faasmns10", ends=ends, mtu=1500, plan=plan)
    check = SimpleNamespace(
        rows=rows, targets=[target], server="192.0.2.10", seconds=10, address=b"\0" * 4, flows=[],
        problems=list,
    )  # fmt: skip
    for draw in (show.show_rules, show.show_table):
        lines = shown(width, draw, check)
        assert max(map(len, lines)) <= width
        text = "\n".join(lines)
        expected = ("faasmns10", "egress", "ingress", "measured", "allowed", "31.99", "ok")
        if draw is show.show_rules:
            expected = ("faasmns10", "faasmp10", "33.55", "Mbit/s", "fq_codel", "configured", "yes")
        assert [word for word in expected if word not in text.split()] == []
        assert ("No room for: " in text) == (width == 80 and draw is show.show_table)

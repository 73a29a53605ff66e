"""status --html: one page that needs nothing else, as a reader sees it."""

import re
from pathlib import Path

from tests import browser
from tests.attached import add_remote
from tests.host import Host
from tests.kernel.test_cli_looking import flood, plugin_config
from tests.tool import Tool


def rows_of(shown: str, table: str) -> list[list[str]]:
    """Return the text of a table's cells, row by row."""
    body = shown.partition(f'id="{table}"')[2].partition("</table>")[0].partition("<tbody>")[2]
    return [
        [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<td.*?>(.*?)</td>", line)]
        for line in body.split("<tr")[1:]
    ]


def test_the_page(bare_host: Host, tmp_path: Path) -> None:
    host = bare_host
    add_remote(host)
    tool = Tool(host)
    tool.network(bandwidth={"egressRate": "4M", "ingressRate": "4M"})
    busy, drifted = host.add_container(), host.add_container()
    for inside in (busy, drifted):
        args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={inside.name}-web"
        host.add(inside, plugin_config(tool), args=args)
    tool("set-rate", drifted.name, "--ingress", "2M").ok()
    host.run(["tc", "qdisc", "del", "dev", "faasm1", "root"])
    page = tmp_path / "status.html"
    with flood(busy):
        done = tool("status", "--html", str(page)).ok()
    assert (done.stdout, done.stderr) == ("", f"cni-faasm: wrote {page}\n")
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"https?://|<script|@import|url\(", text)
    shown = browser.dom(page)
    first, second = rows_of(shown, "attachments")
    assert first[:2] == [f"shop/{busy.name}-web", "eth0"]
    [rate] = re.findall(r"^([34][.\d]*)M of 4M$", first[6])
    is_full = float(rate) >= 3.8  # less on a busy machine
    assert (second[5], second[-1]) == ("0 of 2M*", "1")
    assert shown.count('class="use full"') == is_full
    [drift] = rows_of(shown, "drifts")
    assert drift[0].startswith("testnet/")
    assert drift[1].startswith("host faasm1: root qdisc")
    [difference] = rows_of(shown, "differences")
    assert difference[1:] == ["ingressRate", "2 Mbit/s", "4 Mbit/s"]
    assert "1 attachment of 2 not as promised" in shown
    assert ("1 limit reached" in shown) is is_full
    for dark in (False, True):
        picture = browser.screenshot(page, dark=dark, height=700)
        back = picture[2][2]
        assert (sum(back) < 200) is dark
        colours = {colour for line in picture[:200] for colour in line}
        assert max(browser.contrast(back, colour) for colour in colours) > 12


def test_without_containers(bare_host: Host, tmp_path: Path) -> None:
    tool = Tool(bare_host)
    tool.network()
    page = tmp_path / "status.html"
    tool("status", "--html", str(page), "--json").ok()
    assert "There are none." in page.read_text(encoding="utf-8")
    assert "nowhere" in tool("status", "--html", "/nowhere/x.html").expect(3).stderr
    assert "exclude" in tool("status", "--html", "x.html", "--watch").expect(3).stderr

"""What the documents link to."""

import re
from pathlib import Path


def targets(page: Path) -> list[Path]:
    """Return the files to which a document in Markdown leads; addresses of the web are none."""
    text = page.read_text(encoding="utf-8")
    return [page.parent / one for one in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)]

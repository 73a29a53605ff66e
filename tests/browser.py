"""Open a page in headless Chromium: what it holds once rendered, and how it looks."""

import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

Picture = list[list[tuple[int, int, int]]]

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]


def chromium(page: Path, *flags: str) -> str:
    """Run Chromium on a page in a profile of its own. Returns: what it printed."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        done = subprocess.run(
            ["chromium", *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


def dom(page: Path) -> str:
    """Return the document as Chromium understood it."""
    return chromium(page, "--dump-dom")


def screenshot(page: Path, *, dark: bool = False, width: int = 1200, height: int = 1900) -> Picture:
    """Return the page's picture, as a reader with a light or a dark theme sees it."""
    path = page.with_suffix(".dark.png" if dark else ".light.png")
    theme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    chromium(page, f"--screenshot={path}", f"--window-size={width},{height}", *theme)
    return read_png(path)


def read_png(path: Path) -> Picture:
    """Decode an RGB or RGBA picture of 8 bits per channel (RFC 2083)."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    assert (depth, colour) in ((8, 2), (8, 6))
    packed, at = b"", 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += 12 + length
    raw = zlib.decompress(packed)
    size = 3 if colour == 2 else 4
    stride = width * size
    rows: Picture = []
    before = bytes(stride)
    for y in range(height):
        start = y * (stride + 1)
        before = _unfilter(raw[start], raw[start + 1 : start + 1 + stride], before, size)
        rows.append([(before[x], before[x + 1], before[x + 2]) for x in range(0, stride, size)])
    return rows


def _unfilter(kind: int, line: bytes, before: bytes, size: int) -> bytes:
    if kind == 0:
        return line
    found = bytearray(line)
    for i, value in enumerate(line):
        left = found[i - size] if i >= size else 0
        above = before[i]
        corner = before[i - size] if i >= size else 0
        guess = left + above - corner
        nearest = min((left, above, corner), key=lambda near: abs(guess - near))
        found[i] = (value + (0, left, above, (left + above) // 2, nearest)[kind]) & 0xFF
    return bytes(found)


def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """Return the contrast of two colours, 1 to 21 (WCAG 2, "contrast ratio")."""

    def luminance(colour: tuple[int, int, int]) -> float:
        parts = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (part / 255 for part in colour)
        ]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)

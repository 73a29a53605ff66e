"""Put the real package encodings in the place of encodings_lean.py, in the tool only."""

import sys

del sys.modules["encodings"]

import encodings  # noqa: F401  # now from PyInstaller's archive; it registers its codecs

"""Stand in for the package encodings while the interpreter starts.

The interpreter asks for one codec, UTF-8, before it runs anything. The package from the
standard library spends 0.5 ms on that: its table of 300 aliases, and a module per codec.
In the bundle this module has its name. The plugin stays with it; the operator's tool puts
the real package in its place (runtime_hook.py).
"""

import codecs


def _decode(data: bytes, errors: str = "strict") -> tuple[str, int]:
    return codecs.utf_8_decode(data, errors, True)


class _Encoder(codecs.IncrementalEncoder):
    def encode(self, text: str, final: bool = False) -> bytes:  # noqa: ARG002 -- theirs
        return codecs.utf_8_encode(text, self.errors)[0]


class _Decoder(codecs.BufferedIncrementalDecoder):
    _buffer_decode = staticmethod(codecs.utf_8_decode)  # type: ignore[assignment]


class _Writer(codecs.StreamWriter):
    encode = staticmethod(codecs.utf_8_encode)  # type: ignore[assignment]


class _Reader(codecs.StreamReader):
    decode = staticmethod(codecs.utf_8_decode)  # type: ignore[assignment]


_UTF_8 = codecs.CodecInfo(
    codecs.utf_8_encode,
    _decode,  # type: ignore[arg-type]
    streamreader=_Reader,
    streamwriter=_Writer,
    incrementalencoder=_Encoder,
    incrementaldecoder=_Decoder,
    name="utf-8",
)


def _search(name: str) -> codecs.CodecInfo | None:
    return _UTF_8 if name in ("utf_8", "utf-8", "utf8") else None


codecs.register(_search)

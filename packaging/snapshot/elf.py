"""Read ELF files of 64 bits, little-endian, and archives of them (elf.h, ar(5))."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

PT_LOAD = 1
PF_W = 2
SHT_RELA = 4
SHT_NOBITS = 8
SHF_WRITE = 1
SHF_ALLOC = 2
R_RELATIVE_BY_CALL = {62: 37, 183: 1032}  # by machine: R_X86_64_IRELATIVE, R_AARCH64_IRELATIVE

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")


class Segment(NamedTuple):
    """A program header, Elf64_Phdr."""

    kind: int
    flags: int
    offset: int
    address: int
    physical: int
    file_size: int
    size: int
    alignment: int

    def pack(self) -> bytes:
        return _SEGMENT.pack(*self)


class Section(NamedTuple):
    """A section header, Elf64_Shdr."""

    name: str
    kind: int
    flags: int
    address: int
    offset: int
    size: int


class Elf:
    """An ELF file: its kind, program headers and sections."""

    def __init__(self, data: bytes) -> None:
        header = _HEADER.unpack_from(data)
        if header[0][:7] != b"\x7fELF\x02\x01\x01":
            raise ValueError("not an ELF file of 64 bits, little-endian")
        self.data = data
        self.kind, self.machine = header[1], header[2]
        self.segments_at = header[5]
        sections_at, count, names_index = header[6], header[12], header[13]
        self.segments = [
            Segment(*_SEGMENT.unpack_from(data, self.segments_at + i * _SEGMENT.size))
            for i in range(header[10])
        ]
        raw = [_SECTION.unpack_from(data, sections_at + i * _SECTION.size) for i in range(count)]
        names_at = raw[names_index][4] if raw else 0
        self.sections = [
            Section(_text(data, names_at + one[0]), one[1], one[2], one[3], one[4], one[5])
            for one in raw
        ]

    def contents(self, section: Section) -> bytes:
        return self.data[section.offset : section.offset + section.size]


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


def members(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (name, contents) of each object in an archive of ar(1)."""
    if not archive.startswith(b"!<arch>\n"):
        raise ValueError("not an archive")
    names = b""
    at = 8
    while at < len(archive):
        name = archive[at : at + 16].decode().rstrip()
        size = int(archive[at + 48 : at + 58])
        body = archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
        if name == "//":
            names = body
        elif name not in ("/", "/SYM64/"):
            if name.startswith("/"):
                start = int(name[1:])
                name = names[start : names.index(b"\n", start)].decode()
            yield name.rstrip("/"), body

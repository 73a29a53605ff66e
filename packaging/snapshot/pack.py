"""Put what the seed has written into the seed, and prove that any process can go on from there.

The dump's parts of libpython (pydata, pybss, pyruntime) replace what stands there in the file;
the two arrays, which are the last segments of the seed and empty, get their contents.
"""

import os
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import elf

KEPT = ("pydata", "pybss", "pyruntime")
ARRAYS = {"pages": ".snapshot_pages", "blocks": ".snapshot_blocks"}
ALIGNMENT = 1 << 16  # the largest page of any kernel for these processors
_PART = struct.Struct("<16sQQ")


class PackError(Exception):
    """Say why this cannot be an executable."""


class Dump:
    """What a seed has written: parts of memory, and its surroundings."""

    def __init__(self, data: bytes) -> None:
        self.parts: dict[str, tuple[int, bytes]] = {}
        self.chosen: dict[int, int] = {}  # by address of a start-up relocation: what it became
        self.maps = ""
        at = 0
        while at < len(data):
            label, address, size = _PART.unpack_from(data, at)
            at += _PART.size
            name = label.rstrip(b"\0").decode()
            contents = data[at : at + size]
            at += size
            if name == "maps":
                self.maps = contents.decode()
            elif name == "chosen":
                self.chosen[address] = int.from_bytes(contents, "little")
            else:
                self.parts[name] = (address, contents)
        if set(self.parts) != {*KEPT, *ARRAYS}:
            raise PackError(f"the dump's parts are {sorted(self.parts)}")

    def mappings(self) -> dict[str, tuple[int, int]]:
        """Return the ranges of memory that are not the executable's, by name."""
        found = {}
        for line in self.maps.splitlines():
            words = line.split()
            start, end = (int(word, 16) for word in words[0].split("-"))
            name = words[5] if len(words) > 5 else f"at {start:x}"
            if not name.startswith("/"):
                found[name] = (start, end)
        return found


def prove_same(one: Dump, other: Dump) -> None:
    """Refuse two dumps that differ: what differs is not the plugin's.

    What another process has elsewhere had other places in these two, so that no pointer to it
    could be the same; prove_no_foreign_pointer knows what had not.
    """
    for name, (address, contents) in one.parts.items():
        other_contents = other.parts[name][1]
        if contents != other_contents:
            at = next(
                (
                    i
                    for i, (a, b) in enumerate(zip(contents, other_contents, strict=False))
                    if a != b
                ),
                min(len(contents), len(other_contents)),
            )
            raise PackError(f"two dumps differ in {name} at {address + at:x}")


def prove_no_foreign_pointer(seed: elf.Elf, dump: Dump, other: Dump) -> None:
    """Refuse pointers to what another process has elsewhere, or another processor otherwise.

    Low addresses look like small numbers, so only those are looked for that both seeds had: where
    they differ, prove_same has found the pointers. So it has those to the stack, on which things lay
    at different places: where an emulator puts it, bytecode looks like pointers to it.
    """
    elsewhere = other.mappings()
    own_end = max(one.address + one.size for one in seed.segments if one.kind == elf.PT_LOAD)
    foreign = [
        place
        for name, place in dump.mappings().items()
        if name != "[stack]"
        and (place[0] >= 1 << 32 or (place[0] >= own_end and place == elsewhere.get(name)))
    ]
    chosen = set(dump.chosen.values())
    if not chosen:
        raise PackError("the C library has chosen nothing by processor: is it still static?")
    for name, (address, contents) in dump.parts.items():
        whole = len(contents) & ~7
        for i, (word,) in enumerate(struct.iter_unpack("<Q", contents[:whole])):
            if word in chosen:
                raise PackError(f"{name} at {address + i * 8:x} holds a choice of the C library's")
            if any(start <= word < end for start, end in foreign):
                raise PackError(f"{name} at {address + i * 8:x} holds the foreign pointer {word:x}")


def prove_no_relocation(seed: elf.Elf, dump: Dump) -> None:
    """Refuse a dump into which the C library writes when a process starts."""
    ranges = [(start, start + len(data)) for start, data in dump.parts.values()]
    count = 0
    for section in seed.sections:
        if section.kind != elf.SHT_RELA or not section.flags & elf.SHF_ALLOC:
            continue
        for at, information, _ in struct.iter_unpack("<QQq", seed.contents(section)):
            count += 1
            if information & 0xFFFFFFFF != elf.R_RELATIVE_BY_CALL[seed.machine]:
                raise PackError(f"a start-up relocation of kind {information & 0xFFFFFFFF}")
            if at not in dump.chosen:
                raise PackError(f"the seed does not know the start-up relocation at {at:x}")
            if any(start - 8 < at < end for start, end in ranges):
                raise PackError(f"a start-up relocation falls into the dump at {at:x}")
    if count != len(dump.chosen):
        raise PackError(f"{count} start-up relocations, of which the seed knows {len(dump.chosen)}")


def pack(seed_data: bytes, dump: Dump, other: Dump) -> bytes:
    """Return the executable. Raises: PackError."""
    seed = elf.Elf(seed_data)
    if seed.kind != 2:
        raise PackError("the seed is not at fixed addresses")
    if any(segment.kind == 3 for segment in seed.segments):
        raise PackError("the seed wants a dynamic loader")
    prove_no_relocation(seed, dump)
    prove_no_foreign_pointer(seed, dump, other)
    sections = {section.name: section for section in seed.sections}
    arrays = {sections[section].address: part for part, section in ARRAYS.items()}
    loads = [segment for segment in seed.segments if segment.kind == elf.PT_LOAD]
    ordinary = [segment for segment in loads if segment.address not in arrays]
    if loads[len(ordinary) :] != [one for one in loads if one.address in arrays] or (
        len(loads) != len(ordinary) + len(arrays)
    ):
        raise PackError("the arrays are not the last segments, each by itself")
    made = bytearray(seed_data[: max(one.offset + one.file_size for one in ordinary)])
    for name in KEPT:
        address, contents = dump.parts[name]
        section = sections[name]
        if (section.address, section.size) != (address, len(contents)):
            raise PackError(f"{name} is not what the seed has")
        if section.kind == elf.SHT_NOBITS:
            raise PackError(f"{name} has no room in the file")
        made[section.offset : section.offset + section.size] = contents
    segments = []
    for segment in seed.segments:
        if segment.kind != elf.PT_LOAD or segment.address not in arrays:
            segments.append(segment)
            continue
        address, contents = dump.parts[arrays[segment.address]]
        if address != segment.address or address % ALIGNMENT:
            raise PackError(f"{arrays[segment.address]} lies at {address:x}")
        made += bytes(-len(made) % ALIGNMENT)
        segments.append(
            segment._replace(offset=len(made), file_size=len(contents), size=len(contents))
        )
        made += contents
    for i, segment in enumerate(segments):
        packed = segment.pack()
        at = seed.segments_at + i * len(packed)
        made[at : at + len(packed)] = packed
    # No section headers: nothing here is looked for by name.
    struct.pack_into("<Q", made, 40, 0)
    struct.pack_into("<HH", made, 60, 0, 0)
    return bytes(made)


def prove_nothing_of_here(made: bytes, words: list[str]) -> None:
    """Refuse an executable that says where or by whom it was made."""
    for word in words:
        if len(word) > 3 and word.encode() in made:
            raise PackError(f"the executable holds '{word}'")

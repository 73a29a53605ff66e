"""Encode and decode what all netlink messages share: headers, attributes, answers.

Pure: bytes in, bytes out. Every multi-byte number is in the machine's own order except
in nf_tables, whose attributes are big-endian (the be* functions).

    message:   | nlmsghdr: length u32, type u16, flags u16, sequence u32, port u32 | body |
    body:      | a fixed structure of its type | attribute | attribute | ...
    attribute: | nlattr: length u16, type u16 | payload | zeros up to 4 bytes |

Layout: struct nlmsghdr, struct nlattr and struct nlmsgerr in <linux/netlink.h>.
"""

from contextlib import suppress
from os import strerror
from struct import Struct
from struct import error as struct_error

# Type, flags, body, and the words a person would use for it ("ip link del faasm0").
# REQUEST, ACK and DUMP flags are the transport's; codecs say only how to create.
Message = tuple[int, int, bytes, str]
# Type, flags, sequence, port and body of a received message.
Received = tuple[int, int, int, int, bytes]

# <asm-generic/errno.h>
EBADMSG = 74

# <linux/netlink.h>
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSG_MIN_TYPE = 0x10
NLM_F_REQUEST = 0x01
NLM_F_ACK = 0x04
NLM_F_ECHO = 0x08
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

HEADER = Struct("=IHHII")
HEADER_LEN = 16
_NLATTR = Struct("=HH")
_U8 = Struct("=B")
_U16 = Struct("=H")
_U32 = Struct("=I")
_U64 = Struct("=Q")
_S32 = Struct("=i")
_BE16 = Struct(">H")
_BE32 = Struct(">I")
_BE64 = Struct(">Q")
_U32_ATTR = Struct("=HHI")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class NetlinkError(Exception):
    """A request that the kernel refused, or an answer that makes no sense.

    errno: as the kernel gave it, without its sign; EBADMSG when the answer is malformed.
    label: the request in words. ext_ack: the kernel's own explanation, or "".
    """

    __slots__ = ("errno", "ext_ack", "label")

    def __init__(self, errno: int, label: str, ext_ack: str = "") -> None:
        Exception.__init__(self, errno, label, ext_ack)
        self.errno = errno
        self.label = label
        self.ext_ack = ext_ack

    def __str__(self) -> str:
        text = f"{self.label}: {strerror(self.errno)}"
        return f"{text} ({self.ext_ack})" if self.ext_ack else text


def malformed(what: str) -> NetlinkError:
    """Return the error for an answer that does not have its type's layout."""
    return NetlinkError(EBADMSG, "netlink", f"malformed {what}")


# ---- encoding


def attr(kind: int, payload: bytes) -> bytes:
    """Encode one attribute, padded to 4 bytes.

    Raises: ValueError when the payload exceeds the u16 length field.
    """
    length = len(payload) + 4
    try:
        return _NLATTR.pack(length, kind) + payload + _PADDING[length & 3]
    except struct_error:
        msg = f"attribute {kind} of {len(payload)} bytes: more than netlink can carry"
        raise ValueError(msg) from None


def nest(kind: int, *parts: bytes) -> bytes:
    """Encode an attribute that holds attributes."""
    return attr(kind | NLA_F_NESTED, b"".join(parts))


def _number(kind: int, layout: Struct, value: int) -> bytes:
    try:
        return attr(kind, layout.pack(value))
    except struct_error:
        msg = f"attribute {kind}: {value} does not fit in {layout.size} bytes"
        raise ValueError(msg) from None


def attr_u8(kind: int, value: int) -> bytes:
    return _number(kind, _U8, value)


def attr_u16(kind: int, value: int) -> bytes:
    return _number(kind, _U16, value)


def attr_u32(kind: int, value: int) -> bytes:
    # By far the most frequent: one pack instead of two.
    try:
        return _U32_ATTR.pack(8, kind, value)
    except struct_error:
        msg = f"attribute {kind}: {value} does not fit in 4 bytes"
        raise ValueError(msg) from None


def attr_u64(kind: int, value: int) -> bytes:
    return _number(kind, _U64, value)


def attr_s32(kind: int, value: int) -> bytes:
    return _number(kind, _S32, value)


def attr_be16(kind: int, value: int) -> bytes:
    return _number(kind, _BE16, value)


def attr_be32(kind: int, value: int) -> bytes:
    return _number(kind, _BE32, value)


def attr_be64(kind: int, value: int) -> bytes:
    return _number(kind, _BE64, value)


def attr_text(kind: int, text: str) -> bytes:
    """Encode a string with its final NUL.

    Raises: ValueError when a NUL is inside: the kernel would silently cut the text there.
    """
    if "\0" in text:
        msg = f"attribute {kind}: {text!r} has a NUL inside"
        raise ValueError(msg)
    return attr(kind, text.encode("utf-8", "surrogateescape") + b"\0")


def frame(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Encode one whole message, padded to 4 bytes; the kernel fills in the port."""
    length = HEADER_LEN + len(body)
    return HEADER.pack(length, kind, flags, sequence, 0) + body + _PADDING[length & 3]


# ---- decoding

SUCCESS = (0, "")


def fixed(layout: Struct, body: bytes, what: str) -> tuple[int, ...]:
    """Decode the structure at the head of a body.

    Raises: NetlinkError when the body is shorter.
    """
    if len(body) < layout.size:
        raise malformed(what)
    return layout.unpack_from(body)


def parse_attrs(data: bytes, start: int = 0, end: int | None = None) -> dict[int, bytes]:
    """Decode a run of attributes into {type: payload}; of duplicates the last one counts.

    Type flags are taken off. Up to three bytes of padding may follow the last attribute.
    Raises: NetlinkError when a length contradicts the buffer.
    """
    if end is None:
        end = len(data)
    attrs: dict[int, bytes] = {}
    last = end - 4
    while start <= last:
        length, kind = _NLATTR.unpack_from(data, start)
        stop = start + length
        if length < 4 or stop > end:
            raise malformed("attribute")
        attrs[kind & NLA_TYPE_MASK] = data[start + 4 : stop]
        start = (stop + 3) & ~3  # what is before the first one is aligned, too
    return attrs


def parse_list(data: bytes) -> list[bytes]:
    """Decode a run of attributes that all mean the same: their payloads, in order.

    Raises: NetlinkError.
    """
    payloads: list[bytes] = []
    start, end = 0, len(data)
    while end - start >= 4:
        length, _ = _NLATTR.unpack_from(data, start)
        stop = start + length
        if length < 4 or stop > end:
            raise malformed("list element")
        payloads.append(data[start + 4 : stop])
        start += (length + 3) & ~3
    return payloads


def _get(attrs: dict[int, bytes], kind: int, layout: Struct, default: int) -> int:
    payload = attrs.get(kind)
    if payload is None:
        return default
    if len(payload) != layout.size:
        raise malformed(f"attribute {kind}: {len(payload)} bytes instead of {layout.size}")
    value: int = layout.unpack(payload)[0]
    return value


def get_u8(attrs: dict[int, bytes], kind: int, default: int = 0) -> int:
    return _get(attrs, kind, _U8, default)


def get_u16(attrs: dict[int, bytes], kind: int, default: int = 0) -> int:
    return _get(attrs, kind, _U16, default)


def get_u32(attrs: dict[int, bytes], kind: int, default: int = 0) -> int:
    return _get(attrs, kind, _U32, default)


def get_u64(attrs: dict[int, bytes], kind: int, default: int = 0) -> int:
    return _get(attrs, kind, _U64, default)


def get_s32(attrs: dict[int, bytes], kind: int, default: int = 0) -> int:
    return _get(attrs, kind, _S32, default)


def get_be32(attrs: dict[int, bytes], kind: int, default: int = 0) -> int:
    return _get(attrs, kind, _BE32, default)


def get_be64(attrs: dict[int, bytes], kind: int, default: int = 0) -> int:
    return _get(attrs, kind, _BE64, default)


def get_text(attrs: dict[int, bytes], kind: int, default: str = "") -> str:
    """Return a string up to its NUL; bytes that are not UTF-8 become surrogates."""
    payload = attrs.get(kind)
    return default if payload is None else text_of(payload)


def text_of(payload: bytes) -> str:
    """Decode a NUL-terminated string; never fails, and encodes back to the same bytes."""
    return payload.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def split(data: bytes) -> list[Received]:
    """Cut what one receive brought into messages.

    Raises: NetlinkError when a length contradicts the buffer.
    """
    messages: list[Received] = []
    start, end = 0, len(data)
    while start < end:
        if end - start < HEADER_LEN:
            raise malformed("message header")
        length, kind, flags, sequence, port = HEADER.unpack_from(data, start)
        stop = start + length
        if length < HEADER_LEN or stop > end:
            raise malformed("message length")
        messages.append((kind, flags, sequence, port, data[start + HEADER_LEN : stop]))
        start = (stop + 3) & ~3
    return messages


def parse_answer(kind: int, flags: int, body: bytes) -> tuple[int, str]:
    """Decode an NLMSG_ERROR or NLMSG_DONE. Returns: errno (0: success), extended ACK text.

    Layout: NLMSG_ERROR: error s32, header of the request, its body unless NLM_F_CAPPED,
    attributes if NLM_F_ACK_TLVS. NLMSG_DONE: error s32, attributes if NLM_F_ACK_TLVS.
    Raises: NetlinkError.
    """
    if len(body) < 4:
        # Some dumps of old kernels end without a status.
        if kind == NLMSG_DONE and not body:
            return 0, ""
        raise malformed("acknowledgement")
    code: int = _S32.unpack_from(body)[0]
    if not code and not flags & NLM_F_ACK_TLVS:
        return SUCCESS
    if kind == NLMSG_DONE and code > 0:
        code = 0  # a count, as some dumps say it; only a negative number is an error
    if code > 0:
        raise malformed("acknowledgement: a positive error")
    text = ""
    if flags & NLM_F_ACK_TLVS:
        start = 4
        if kind == NLMSG_ERROR:
            if len(body) < 4 + HEADER_LEN:
                raise malformed("acknowledgement: no request header")
            start += HEADER_LEN
            if not flags & NLM_F_CAPPED:
                length: int = _U32.unpack_from(body, 4)[0]
                start += (max(length - HEADER_LEN, 0) + 3) & ~3
        text = get_text(parse_attrs(body, start), NLMSGERR_ATTR_MSG)
    return -code, text


with suppress(ImportError):
    # The built plugin has these two in C (packaging/snapshot/attributes.c).
    from _faasm_attributes import parse_attrs, split  # type: ignore[import-not-found, no-redef]


class Replies:
    """Sort what receives bring to the requests they answer. Pure: no socket.

    One exchange has `count` requests with consecutive sequence numbers from `first`, sent
    from `port`. What belongs to another exchange (one that was given up) is passed over.

    bodies: per request, the messages before its answer. answers: per request, None until
    answered, then (errno, extended ACK text). pending: requests without an answer.
    has_words: some answer has an errno or a text. interrupted: a dump that the kernel says is
    inconsistent.
    """

    __slots__ = ("_first", "_port", "answers", "bodies", "has_words", "interrupted", "pending")

    def __init__(self, first: int, count: int, port: int) -> None:
        self._first = first
        self._port = port
        self.bodies: list[list[bytes]] = [[] for _ in range(count)]
        self.answers: list[tuple[int, str] | None] = [None] * count
        self.pending = count
        self.has_words = False
        self.interrupted = False

    def feed(self, data: bytes) -> None:
        """Take in one receive.

        Raises: NetlinkError when it is malformed.
        """
        first, port, answers = self._first, self._port, self.answers
        for kind, flags, sequence, to, body in split(data):
            index = (sequence - first) & 0xFFFFFFFF
            if index >= len(answers) or to != port:
                continue
            if kind >= NLMSG_MIN_TYPE:
                self.bodies[index].append(body)
            elif kind in (NLMSG_ERROR, NLMSG_DONE) and answers[index] is None:
                answers[index] = answer = parse_answer(kind, flags, body)
                self.pending -= 1
                if answer != SUCCESS:
                    self.has_words = True
            if flags & NLM_F_DUMP_INTR and kind != NLMSG_ERROR:
                self.interrupted = True

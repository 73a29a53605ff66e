"""Encode and decode comments of nf_tables' objects, as libnftnl stores them: nft shows them.

Layout: <libnftnl/udata.h>. The kernel keeps user data as it came.
"""

from cni_faasm.netlink.wire import text_of

# <libnftnl/udata.h>: NFTNL_UDATA_TABLE_COMMENT and NFTNL_UDATA_RULE_COMMENT.
_UDATA_COMMENT = 0
# NFTNL_UDATA_COMMENT_MAXLEN, with the NUL.
COMMENT_MAX = 128


def comment_data(comment: str) -> bytes:
    """Encode a comment as user data: type u8, length u8, text with its NUL.

    Raises: ValueError when it is longer than nft reads.
    """
    text = comment.encode("utf-8", "surrogateescape") + b"\0"
    if len(text) > COMMENT_MAX:
        msg = f"comment of {len(text) - 1} bytes: at most {COMMENT_MAX - 1}"
        raise ValueError(msg)
    return bytes((_UDATA_COMMENT, len(text))) + text


def parse_comment(userdata: bytes) -> str:
    """Return the comment among user data, or "". Others put there what they like."""
    position = 0
    while position + 2 <= len(userdata):
        kind, length = userdata[position], userdata[position + 1]
        if kind == _UDATA_COMMENT:
            return text_of(userdata[position + 2 : position + 2 + length])
        position += 2 + length
    return ""

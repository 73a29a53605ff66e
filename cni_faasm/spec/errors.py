"""Define the one error that crosses every layer, and its codes.

Codes below 100 are the CNI specification's (SPEC.md, section "Error"); from 100 up
they are ours. docs/errors.md lists each with its cause and its remedy.
"""

INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
INVALID_CONFIG = 7
TRY_AGAIN = 11
PLUGIN_NOT_AVAILABLE = 50
LIMITED_CONNECTIVITY = 51

INTERNAL = 100
ALREADY_ATTACHED = 101
INTERFACE_EXISTS = 102
ADDRESSES_EXHAUSTED = 103
ADDRESS_UNAVAILABLE = 104
KERNEL_REFUSED = 105
KERNEL_LACKS_FEATURE = 106
DRIFT = 107
IPAM_FAILED = 108
TABLE_TAKEN = 109
PORT_TAKEN = 110


class CniError(Exception):
    """Carry one CNI error document: code, msg (what is wrong), details (what to do)."""

    __slots__ = ("code", "details", "msg")

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        Exception.__init__(self, msg)
        self.code = code
        self.msg = msg
        self.details = details

    def add_details(self, text: str) -> None:
        """Append a sentence to the details, as undo does when one of its steps fails."""
        self.details = self.details + "; " + text if self.details else text

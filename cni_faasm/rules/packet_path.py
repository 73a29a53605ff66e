"""Follow a packet of which only some is known through the chains of a table of nftables.

    a new TCP connection        ip saddr 10.200.0.0/16  iifname "faasm*"  oifname "eth0"
    filter_FORWARD              ct state established,related accept       no
                                jump filter_FORWARD_ZONES                 yes
    filter_FORWARD_ZONES        goto filter_FWD_public                    yes
    filter_FWD_public           tcp dport 443 accept                      perhaps: it may pass
                                reject                                    yes

Each rule matches all such packets, none, or perhaps some. Refused is said only when every one
of them is sure to be dropped: what a rule does that is not understood here counts as "perhaps".
"""

from cni_faasm.netlink import dumps, nft, nft_expr, nft_set
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.rules import packet_rules as rules
from cni_faasm.rules.packet import Answer, Packet, Registers, bounds, equal
from cni_faasm.rules.packet_rules import Step

# Whether it is certain, what is decided, and the chain of a jump.
Outcome = tuple[bool, int, str]
# The elements that a value is, or may be, and whether it is certain. None: not known which.
Candidates = list[tuple[bool, nft_set.Element | None]]

_JUMPS_MAX = 16  # NFT_JUMP_STACK_SIZE of <net/netfilter/nf_tables.h>


class Table:
    """One table, read as far as packets were followed through it."""

    __slots__ = ("_chains", "_family", "_may_pass", "_name", "_netfilter", "_sets")

    def __init__(self, netfilter: Netlink, family: int, name: str) -> None:
        self._netfilter = netfilter
        self._family = family
        self._name = name
        self._chains: dict[str, list[list[Step]]] = {}
        self._sets: dict[str, tuple[int, int, list[nft_set.Element]]] = {}
        self._may_pass = False

    def refuses(self, chain: nft.Chain, packet: Packet, up_to: int | None = None) -> bool:
        """Say whether a base chain is sure to drop such packets.

        up_to: how many of its own rules to look at; what passes those, passes.
        Raises: NetlinkError.
        """
        self._may_pass = False
        verdict = self._walk(chain.name, packet, 0, up_to)
        if verdict is None:
            drops = up_to is None and chain.policy == nft.NF_DROP
        else:
            drops = verdict == nft_expr.DROP
        return drops and not self._may_pass

    def targets(self, chain: str) -> list[str]:
        """Return the chain that each rule of a chain jumps to, "" for those that do not."""
        found = []
        for steps in self._rules(chain):
            verdicts = [step for step in steps if step[0] == rules.VERDICT]
            found.append(str(verdicts[0][2]) if verdicts else "")
        return found

    def _walk(self, chain: str, packet: Packet, depth: int, up_to: int | None = None) -> int | None:
        """Return what becomes of all of the packets, None when they come out again.

        Notes in _may_pass that some may be accepted; whether some are dropped does not matter.
        """
        if depth > _JUMPS_MAX:
            self._may_pass = True
            return None
        some_left = False
        for steps in self._rules(chain)[:up_to]:
            for certain, code, target in self._outcomes(steps, packet):
                decided: int | None = code
                leaves = code in (rules.GOTO, nft_expr.RETURN)
                if code in (rules.JUMP, rules.GOTO):
                    decided = self._walk(target, packet, depth + 1)
                elif leaves:
                    decided = None
                if decided == nft_expr.ACCEPT and (some_left or not certain):
                    self._may_pass = True
                if certain and (decided is not None or leaves):
                    return None if some_left else decided
                some_left = some_left or leaves
        return None

    def _rules(self, chain: str) -> list[list[Step]]:
        if chain not in self._chains:
            found = dumps.rules(self._netfilter, self._family, self._name, chain)
            self._chains[chain] = [rules.steps(rule.expressions) for rule in found]
        return self._chains[chain]

    def _outcomes(self, steps: list[Step], packet: Packet) -> list[Outcome]:
        """Return what a rule may decide."""
        registers = Registers()
        certain = True
        there: tuple[int, bytes] | None = None  # the register of the destination, and its mask
        for step in steps:
            matches: Answer = None
            kind = step[0]
            if kind == rules.VERDICT:
                return [(certain, step[1], step[2])]
            if kind == rules.LOAD:
                registers.write(step[1], *packet.load(*step[2:]))
                is_there = packet.is_destination(*step[2:])
                there = (step[1], b"\xff" * step[5]) if is_there else None
                matches = True
            elif kind == rules.COMPARE:
                matches = registers.compare(*step[1:])
                if matches is None and there is not None and there[0] == step[2]:
                    matches = _is_elsewhere(packet, step[1], step[3], there[1])
            elif kind == rules.BITWISE:
                registers.bitwise(*step[1:])
                is_masked = (
                    there is not None and there[0] == step[1] and step[4] and not any(step[5])
                )
                there = (step[2], step[4]) if is_masked else None
                matches = True
            elif kind == rules.CONNECTION:
                matches = bool(step[1] & packet.state) != step[2]
            elif kind in (rules.LOOK_UP, rules.MAP):
                candidates = self._candidates(step[1], step[2], registers)
                if kind == rules.MAP:
                    return [
                        (sure and certain, *rules.verdict_of(one.data if one else b""))
                        for sure, one in candidates
                    ]
                matches = _is_in(candidates, inverted=step[3])
            elif kind == rules.UNKNOWN:
                registers.forget()
            if matches is False:
                return []
            certain = certain and matches is True
        return []

    # ---- sets

    def _candidates(self, name: str, register: int, registers: Registers) -> Candidates:
        flags, key_bytes, elements = self._set(name)
        value, bits = registers.read(register, key_bytes)
        if not flags & nft_set.NFT_SET_ANONYMOUS:
            if any(byte != 0xFF for byte in bits):
                return [(False, None)]  # it may be long, and somebody else's to read
            return self._get(name, value)
        if not flags & nft_set.NFT_SET_INTERVAL:
            answers = [(equal(value, bits, one.key), one) for one in elements]
            return [(answer is True, one) for answer, one in answers if answer is not False]
        if flags & nft_set.NFT_SET_CONCAT:
            return [(False, None)]
        return _intervals_that_hold(value, bits, elements)

    def _set(self, name: str) -> tuple[int, int, list[nft_set.Element]]:
        """Return a set's flags, the length of its keys, and where it is anonymous, its elements."""
        if name not in self._sets:
            body = self._netfilter.get(nft_set.get_set(self._family, self._name, name))
            flags, key_bytes = nft_set.parse_set(body)
            elements = []
            if flags & nft_set.NFT_SET_ANONYMOUS:
                elements = dumps.whole_elements(self._netfilter, self._family, self._name, name)
            self._sets[name] = flags, key_bytes, elements
        return self._sets[name]

    def _get(self, name: str, key: bytes) -> Candidates:
        message = nft_set.get_element(self._family, self._name, name, key)
        try:
            [body] = self._netfilter.ask([message])
        except NetlinkError:
            return [(False, None)]  # a kind of set that does not tell
        if body is None:
            return []
        return [(True, one) for one in nft_set.parse_whole_elements(body)]


def _is_elsewhere(packet: Packet, operator: int, data: bytes, mask: bytes) -> Answer:
    """Compare a destination of which only is known where it is not."""
    is_equality = operator in (nft_expr.NFT_CMP_EQ, nft_expr.NFT_CMP_NEQ)
    if is_equality and packet.never_goes_to(data, mask):
        return operator == nft_expr.NFT_CMP_NEQ
    return None


def _is_in(candidates: Candidates, *, inverted: bool) -> Answer:
    if candidates and not any(sure for sure, _ in candidates):
        return None
    return bool(candidates) != inverted


def _intervals_that_hold(value: bytes, bits: bytes, elements: list[nft_set.Element]) -> Candidates:
    """Return the intervals that hold the value, or may: each goes on to the next element."""
    least, most = bounds(value, bits)
    ordered = sorted(elements, key=lambda one: (one.key, not one.is_end))
    found: Candidates = []
    for index, one in enumerate(ordered):
        after = ordered[index + 1].key if index + 1 < len(ordered) else None
        if one.is_end or one.key > most or (after is not None and after <= least):
            continue
        found.append((one.key <= least and (after is None or most < after), one))
    return found

"""Own the netlink sockets: send batches, match the answers, turn refusals into errors.

The only module here that makes system calls. A socket belongs to the network namespace
in which it was opened, wherever the process goes afterwards. Not for two threads at once.

A batch is one send: the kernel carries out its messages in order, and goes on after one
that fails. Every message is acknowledged, and all answers are read before anything is
raised, so the socket is ready for the next exchange whatever happened.
"""

from collections.abc import Iterable, Sequence
from os import strerror
from socket import socket
from struct import Struct
from typing import ClassVar, Self

from cni_faasm.netlink.debuglog import Log
from cni_faasm.netlink.wire import (
    HEADER_LEN,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NetlinkError,
    Replies,
    frame,
)
from cni_faasm.netlink.wire import Message as Message  # noqa: PLC0414 -- mypy: re-exported

__all__ = ["Netlink", "NetlinkError"]

# <asm-generic/errno.h>, <asm-generic/errno-base.h>
ENOENT = 2
EAGAIN = 11
ENODATA = 61
ENOBUFS = 105
ETIMEDOUT = 110

# <linux/socket.h>, <asm-generic/socket.h>
AF_NETLINK = 16
SOCK_RAW = 3
SOCK_CLOEXEC = 0o2000000
SOL_SOCKET = 1
SO_SNDBUFFORCE = 32
SO_RCVTIMEO = 20
MSG_TRUNC = 0x20
MSG_DONTWAIT = 0x40
SOL_NETLINK = 270

# <linux/netlink.h>
NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12

# <linux/netfilter/nfnetlink.h>
NFNL_MSG_BATCH_BEGIN = 0x10
NFNL_MSG_BATCH_END = 0x11
# struct nfgenmsg: family AF_UNSPEC, version 0, resource NFNL_SUBSYS_NFTABLES (big-endian).
_NFT_BATCH = b"\0\0\0\x0a"
_NFT_BEGIN: Message = (NFNL_MSG_BATCH_BEGIN, 0, _NFT_BATCH, "nft transaction")
_NFT_END: Message = (NFNL_MSG_BATCH_END, 0, _NFT_BATCH, "nft transaction")

_PROTOCOLS = {NETLINK_ROUTE: "links and routes", NETLINK_NETFILTER: "nf_tables"}

_TIMEVAL = Struct("=qq")

# A socket buffer holds 208 KiB, in which an acknowledgement takes about 1 KiB and an
# echoed link 5 KiB. So many messages cannot overflow it.
BATCH_MESSAGES = 32
BATCH_BYTES = 32768
# Of one datagram. The kernel cuts dumps at 32 KiB; the longest answer else is a link with as many
# alternative names as one attribute has room for, 64 KiB. A longer one is refused, not believed.
# From 128 KiB on, malloc would ask the kernel for memory each time.
DATAGRAM_BYTES = 126 << 10
# The kernel keeps this much of the send buffer's size for itself.
_SEND_RESERVE = 32
DUMP_ATTEMPTS = 10
TIMEOUT_S = 10


class Netlink:
    """One netlink socket in the namespace of its creation.

    Messages are tuples (type, flags, body, label) as the codecs return them.
    warnings: what the kernel remarked about requests that it carried out.
    Raises: NetlinkError from the constructor when the kernel gives no socket.
    """

    __slots__ = ("_port", "_sequence", "_socket", "warnings")

    # Of the process: told of each request and what came of it.
    log: ClassVar[Log | None] = None
    # Of a process that ends soon, or forks a child that does: the sockets that it has closed until
    # then. A close waits for RCU after elements of nf_tables went, which it need not while there is
    # something else to wait for.
    kept_open: ClassVar[list[socket] | None] = None

    def __init__(self, protocol: int = NETLINK_ROUTE, timeout_s: float = TIMEOUT_S) -> None:
        try:
            self._socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)
        except OSError as error:
            name = _PROTOCOLS.get(protocol, str(protocol))
            raise NetlinkError(error.errno or ENOBUFS, f"netlink socket for {name}") from None
        self._sequence = 1
        self.warnings: list[str] = []
        try:
            timeval = _TIMEVAL.pack(int(timeout_s), int(timeout_s % 1 * 1_000_000))
            self._socket.setsockopt(SOL_SOCKET, SO_RCVTIMEO, timeval)
            self._socket.bind((0, 0))
            self._port: int = self._socket.getsockname()[0]
            for option in (NETLINK_EXT_ACK, NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK):
                # Kernels before 4.12 and 4.20 lack some: explanations and filters are
                # conveniences, and every reader of a dump filters once more itself.
                try:
                    self._socket.setsockopt(SOL_NETLINK, option, 1)
                except OSError:
                    continue
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if Netlink.kept_open is None:
            self._socket.close()
        else:
            Netlink.kept_open.append(self._socket)

    @classmethod
    def close_kept(cls) -> None:
        """Close what was kept open, and keep no more. A child that has it too waits instead."""
        if cls.kept_open is not None:
            for one in cls.kept_open:
                one.close()
            cls.kept_open = None

    def fileno(self) -> int:
        return self._socket.fileno()

    def execute(self, messages: Iterable[Message]) -> list[list[bytes]]:
        """Have all messages carried out. Returns: per message, the bodies of its replies.

        Raises: NetlinkError of the first message that failed. The ones after it have been
        carried out all the same, unless they failed too.
        """
        results: list[list[bytes]] = []
        failure: NetlinkError | None = None
        for result in self.execute_tolerant(messages):
            if isinstance(result, NetlinkError):
                failure = failure or result
            else:
                results.append(result)
        if failure is not None:
            raise failure
        return results

    def execute_tolerant(self, messages: Iterable[Message]) -> list[NetlinkError | list[bytes]]:
        """Do as execute does, but return each failure in its place.

        Raises: NetlinkError only when the answers themselves are malformed.
        """
        messages = list(messages)
        size = sum([len(body) for _, _, body, _ in messages]) + HEADER_LEN * len(messages)
        if len(messages) <= BATCH_MESSAGES and size <= BATCH_BYTES:
            return self._run_batch(messages) if messages else []
        results: list[NetlinkError | list[bytes]] = []
        batch: list[Message] = []
        size = 0
        for message in messages:
            length = len(message[2]) + HEADER_LEN
            if batch and (len(batch) == BATCH_MESSAGES or size + length > BATCH_BYTES):
                results += self._run_batch(batch)
                batch, size = [], 0
            batch.append(message)
            size += length
        if batch:
            results += self._run_batch(batch)
        return results

    def get(self, question: Message) -> bytes:
        """Return the body of the one object that a request asks for, or makes and tells of.

        Raises: NetlinkError; ENODATA when the kernel did as asked and told nothing.
        """
        [answer] = self.get_tolerant([question])
        if isinstance(answer, NetlinkError):
            raise answer
        return answer

    def get_tolerant(self, questions: Sequence[Message]) -> list[NetlinkError | bytes]:
        """Do as get does for several, but return each failure in its place."""
        found: list[NetlinkError | bytes] = []
        answers = self.execute_tolerant(questions)
        for (_, _, _, label), answer in zip(questions, answers, strict=True):
            if isinstance(answer, NetlinkError):
                found.append(answer)
            elif answer:
                found.append(answer[0])
            else:
                text = "the kernel acknowledged it and told nothing"
                found.append(NetlinkError(ENODATA, label, text))
        return found

    def ask(self, questions: Sequence[Message]) -> list[bytes | None]:
        """Ask for several objects at once. Returns: the body of each, None for an absent one.

        Raises: NetlinkError for anything but ENOENT.
        """
        bodies: list[bytes | None] = []
        for answer in self.get_tolerant(questions):
            if not isinstance(answer, NetlinkError):
                bodies.append(answer)
            elif answer.errno == ENOENT:
                bodies.append(None)
            else:
                raise answer
        return bodies

    def dump(self, message: Message) -> list[bytes]:
        """Return the bodies of all objects that the request matches.

        A dump during which something changed is repeated.
        Raises: NetlinkError; EAGAIN when it changed each time.
        """
        kind, flags, body, label = message
        for _ in range(DUMP_ATTEMPTS):
            replies = self._send([(kind, flags | NLM_F_DUMP, body, label)])
            lost = self._collect(replies, 0)
            result = self._result(replies, 0, label, lost)
            if isinstance(result, NetlinkError):
                if result.errno == ENOBUFS:
                    continue
                raise result
            if not replies.interrupted:
                return result
        raise NetlinkError(EAGAIN, label, "it changed each time while it was being read")

    def nft_batch(self, messages: Sequence[Message]) -> None:
        """Have nf_tables carry out all messages as one transaction: all or nothing.

        Raises: NetlinkError of the first message that failed; errno alone says why where
        the transaction as a whole was refused.
        """
        if not messages:
            return
        batch = [_NFT_BEGIN, *messages, _NFT_END]
        size = sum([len(body) + 20 for _, _, body, _ in batch]) + _SEND_RESERVE
        # Failures are answered unasked. So that they are known to have all come, and a
        # large transaction does not flood the receive buffer, only the last message asks.
        replies = self._send(batch, len(messages), size)
        # A refusal of the whole is answered for BATCH_BEGIN, and then nothing else may come.
        lost = self._collect(replies, len(messages), 0)
        if Netlink.log is not None:
            for _, _, _, label in messages:
                Netlink.log.step(f"nft transaction: {label}")
        if replies.has_words:
            for index, (_, _, _, label) in enumerate(messages, 1):
                answer = replies.answers[index]
                if answer is not None and answer[0]:
                    raise NetlinkError(answer[0], label, answer[1])
            for index in (0, len(batch) - 1):
                answer = replies.answers[index]
                if answer is not None and answer[0]:
                    label = f"nft transaction ({messages[0][3]}; …)"
                    raise NetlinkError(answer[0], label, answer[1])
        if replies.answers[len(messages)] is None:
            raise _unanswered(messages[-1][3], lost)

    # ---- one exchange

    def _run_batch(self, batch: list[Message]) -> list[NetlinkError | list[bytes]]:
        # The kernel works in order and answers failures unasked. So the last message's
        # acknowledgement says that the others are done, and spares theirs.
        last = len(batch) - 1
        replies = self._send(batch, last)
        lost = self._collect(replies, last)
        if not lost and replies.answers[last] is not None:
            if not replies.has_words and Netlink.log is None:
                return [*replies.bodies]
            replies.answers = [answer or (0, "") for answer in replies.answers]
        return [
            self._result(replies, index, label, lost)
            for index, (_, _, _, label) in enumerate(batch)
        ]

    def _send(self, batch: Sequence[Message], asking: int = -1, size: int = 0) -> Replies:
        """Send all in one datagram.

        asking: the one that wants an acknowledgement. size: the least send buffer, where it may
        matter.
        """
        first = sequence = self._sequence
        requests = []
        for index, (kind, flags, body, _) in enumerate(batch):
            how = NLM_F_REQUEST | NLM_F_ACK if index == asking else NLM_F_REQUEST
            requests.append(frame(kind, flags | how, sequence, body))
            sequence = (sequence + 1) & 0xFFFFFFFF
        self._sequence = sequence
        data = b"".join(requests)
        if size > BATCH_BYTES:
            self._socket.setsockopt(SOL_SOCKET, SO_SNDBUFFORCE, size)
        try:
            self._socket.sendto(data, (0, 0))
        except OSError as error:
            raise NetlinkError(error.errno or ENOBUFS, "netlink send") from None
        return Replies(first, len(batch), self._port)

    def _collect(self, replies: Replies, last: int = -1, other: int = -1) -> int:
        """Receive until all requests, or one of the two named ones, are answered.

        Returns: 0, or the errno that says why the rest will not come: ENOBUFS when the
        kernel had to drop answers, ETIMEDOUT when it gave none.
        """
        answers = replies.answers
        lost = 0
        while replies.pending and (
            last < 0 or (answers[last] is None and (other < 0 or answers[other] is None))
        ):
            try:
                replies.feed(self._receive(MSG_DONTWAIT if lost else 0))
            except OSError as error:
                if error.errno == ENOBUFS:
                    # What the buffer did hold is still to be read. The kernel answers
                    # during the send: what is not there now was dropped.
                    lost = ENOBUFS
                elif error.errno == EAGAIN:
                    return lost or ETIMEDOUT
                else:
                    raise NetlinkError(error.errno or ENOBUFS, "netlink receive") from None
            except BaseException:
                self._drain()
                raise
        return lost

    def _receive(self, flags: int) -> bytes:
        """Return the next datagram of the kernel.

        Raises: OSError; NetlinkError when it was cut short.
        """
        while True:
            data, _, received, address = self._socket.recvmsg(DATAGRAM_BYTES, 0, flags)
            # Port 0 is the kernel; another process may send here too, if it is privileged.
            if address[0] != 0:
                continue
            if received & MSG_TRUNC:
                raise NetlinkError(ENOBUFS, "netlink receive", "the answer was cut short")
            return data

    def _drain(self) -> None:
        """Throw away what is left of an exchange that failed in the middle."""
        try:
            while True:
                self._receive(MSG_DONTWAIT)
        except (OSError, NetlinkError):
            return

    def _result(
        self, replies: Replies, index: int, label: str, lost: int
    ) -> NetlinkError | list[bytes]:
        answer = replies.answers[index]
        if answer is None:
            return _unanswered(label, lost)
        number, text = answer
        if Netlink.log is not None:
            Netlink.log.step(f"{label}: {strerror(number) if number else 'done'} {text}".rstrip())
        if number:
            return NetlinkError(number, label, text)
        if text:
            self.warnings.append(f"{label}: {text}")
        return replies.bodies[index]


def _unanswered(label: str, lost: int) -> NetlinkError:
    if lost == ENOBUFS:
        return NetlinkError(ENOBUFS, label, "the kernel dropped its answer")
    return NetlinkError(ETIMEDOUT, label, "the kernel gave no answer")

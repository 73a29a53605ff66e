"""Execute one program at a time and say what it cost. A process of its own, kept small.

Run as `python3 -I -S -B spawner.py`. Small for two reasons. The kernel counts what a
program's parent had in memory at the time of exec as the program's own peak, because a
vfork-ed child still has its parent's memory then: a large parent would hide what a small
program uses. And what happens between the clock's two readings should be the program.

Requests come on stdin, answers go to stdout, both as a 4-byte length and `marshal` data
(the same interpreter is at both ends): (path, arguments, environment, input) → the fields
of `Cost` in calls.py, in order. The starter makes this process a subreaper, so that what a
program leaves behind is waited for, after the clock was stopped.
"""

import marshal
import posix
import select
import sys
import time


def answer(
    request: "tuple[str, list[str], dict[str, str], bytes]",
) -> "tuple[int, bytes, bytes, float, float, float, float, int]":
    """Execute, wait for the exit and for the end of both outputs, and say what it cost."""
    path, arguments, environment, data = request
    in_read, in_write = posix.pipe()
    out_read, out_write = posix.pipe()
    err_read, err_write = posix.pipe()
    posix.write(in_write, data)  # at most 64 KiB: a pipe takes that at once
    posix.close(in_write)
    actions = [
        (posix.POSIX_SPAWN_DUP2, in_read, 0),
        (posix.POSIX_SPAWN_DUP2, out_write, 1),
        (posix.POSIX_SPAWN_DUP2, err_write, 2),
    ]
    started = time.monotonic_ns()
    pid = posix.posix_spawn(path, arguments, environment, file_actions=actions)
    for descriptor in (in_read, out_write, err_write):
        posix.close(descriptor)
    texts = {out_read: b"", err_read: b""}
    poll = select.poll()
    for descriptor in texts:
        poll.register(descriptor, select.POLLIN)
    is_open = len(texts)
    while is_open:
        for descriptor, _ in poll.poll():
            piece = posix.read(descriptor, 65536)
            texts[descriptor] += piece
            if not piece:
                poll.unregister(descriptor)
                posix.close(descriptor)
                is_open -= 1
    _, status, usage = posix.wait4(pid, 0)
    ended = time.monotonic_ns()
    late_cpu = 0.0
    while True:  # what it left running is ours now
        try:
            _, _, late = posix.wait4(-1, 0)
        except ChildProcessError:
            break
        late_cpu += late.ru_utime + late.ru_stime
    return (
        posix.waitstatus_to_exitcode(status),
        texts[out_read],
        texts[err_read],
        (ended - started) / 1e9,
        (time.monotonic_ns() - started) / 1e9,
        usage.ru_utime + usage.ru_stime,
        late_cpu,
        usage.ru_maxrss,
    )


def read_exactly(count: int) -> bytes:
    """Return the next bytes of stdin; end the process when there are no more."""
    data = b""
    while len(data) < count:
        piece = posix.read(0, count - len(data))
        if not piece:
            sys.exit(0)
        data += piece
    return data


try:
    while True:
        length = int.from_bytes(read_exactly(4), "big")
        reply = marshal.dumps(answer(marshal.loads(read_exactly(length))))  # noqa: S302
        posix.write(1, len(reply).to_bytes(4, "big") + reply)
except KeyboardInterrupt:  # the one who asks says what there is to say
    sys.exit(130)

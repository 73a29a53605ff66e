"""Take out of nf_tables, in one go, what several DELs at once want taken out.

The kernel does nothing else in nf_tables for 14 to 22 ms after elements went, whoever and however
many they were. So who finds another one at work leaves word of its attachment, a symbolic link in
a folder beside the records, and waits; the next at work does it for all. Who ends in the middle
leaves elements that the next ADD of that name takes out; for who hangs, nobody waits long.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable

from cni_faasm.attachment import files, plan_fields
from cni_faasm.attachment.plan import Plan
from cni_faasm.ipam.lockwait import wait_for_lock

# Far longer than one takes for all that wait.
PATIENCE_MS = 2000
_WAITING = "forgetting"
_ATTEMPTS = 8


def act(state_dir: str, plan: Plan, forget: Callable[[list[Plan]], None]) -> None:
    """Call forget for an attachment, and for those whose DELs wait; or have another one do so.

    Returns when it is done, for this attachment. Raises: what forget raises; CniError.
    """
    folder = files.open_folder(state_dir, plan.network, create=False, mode=0o700)
    if folder < 0:
        forget([plan])
        return
    try:
        is_left_to_others = _is_at_work(folder) and _leave_word(folder, plan)
        if is_left_to_others and not wait_for_lock(folder, PATIENCE_MS):
            forget([plan])
            return
        waiting = _waiting(folder)
        is_done = is_left_to_others and _name_of(plan) not in waiting
        # Whose words are taken is served, also where one's own has been.
        plans = _plans(state_dir, plan, waiting) + ([] if is_done else [plan])
        if plans:
            forget(plans)
    finally:
        files.close(folder)  # and with it the lock


def _is_at_work(folder: int) -> bool:
    """Say whether another one is; if not, take the lock."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _name_of(plan: Plan) -> str:
    """Return the name under which an attachment waits."""
    return f"{plan.container_id}@{plan.ifname}"


def _leave_word(folder: int, plan: Plan) -> bool:
    """Say that an attachment waits. The MAC address tells it from a later one of its name.

    Returns: False where others take the folder away each time.
    """
    name, mac = f"{_WAITING}/{_name_of(plan)}", plan.host_mac.hex()
    for _ in range(_ATTEMPTS):
        try:
            os.symlink(mac, name, dir_fd=folder)
        except FileExistsError:  # of a DEL that was killed
            files.unlink_at(folder, name)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(_WAITING, 0o700, dir_fd=folder)
        else:
            return True
    return False


def _waiting(folder: int) -> dict[str, str]:
    """Return who waits, and let them not: the MAC address by name."""
    try:
        place = os.open(_WAITING, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        return {}
    try:
        waiting = {name: os.readlink(name, dir_fd=place) for name in os.listdir(place)}
        for name in waiting:
            files.unlink_at(place, name)
    finally:
        files.close(place)
    with contextlib.suppress(OSError):  # one has come meanwhile
        os.rmdir(_WAITING, dir_fd=folder)
    return waiting


def _plans(state_dir: str, plan: Plan, waiting: dict[str, str]) -> list[Plan]:
    """Return the other attachments that wait and are still what they were."""
    found = []
    for name, mac in waiting.items():
        if name == _name_of(plan):
            continue
        container_id, _, ifname = name.partition("@")
        other = plan_fields.load(state_dir, plan.network, container_id, ifname)
        # Before it was waiting it was looked for by its record, which goes last.
        if other is not None and other.host_mac.hex() == mac:
            found.append(other)
    return found

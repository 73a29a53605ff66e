"""Read and write whole files of an installation."""

import os


def put_file(path: str, data: bytes, temporary: str) -> None:
    """Write a file that everybody may read, in one step and to the disk."""
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read(path: str) -> bytes | None:
    """Return a file's contents, None when there is none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None

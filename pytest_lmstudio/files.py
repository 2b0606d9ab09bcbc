"""Small files that are whole or not there, and that cannot make a reader wait or fill its memory."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_MOST_BYTES = 1_000_000
#: A pipe without a writer would block the one who opens it to read.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def replace_file(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file at once, so that a reader sees the old one or the new one; a link in its place is replaced.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    # Random, since processes of two machines, or containers, may share a folder and a process id; short, since the name
    # of the file may be as long as names can be.
    draft = path.with_name(f".{os.urandom(8).hex()}.tmp")
    try:
        with draft.open("xb") as file:
            file.writelines(parts)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def open_to_read(path: Path) -> BinaryIO:
    """Open a file to read it from its beginning; nothing is waited for.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, _READ)
    try:
        check_regular(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def check_regular(descriptor: int) -> None:
    """See to it that an open file is none of a device, a pipe or a folder.

    Raises:
        OSError: it is one.
    """
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")


def read_small(path: Path, most_bytes: int = _MOST_BYTES) -> str:
    """Return the text of a file that is expected to be short.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger than `most_bytes`.
        UnicodeDecodeError: it is no UTF-8.
    """
    with open_to_read(path) as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        msg = f"{path} is larger than {most_bytes} bytes"
        raise OSError(msg)
    return data.decode("utf-8")

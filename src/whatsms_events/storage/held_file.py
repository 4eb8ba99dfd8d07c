"""This module tells whether the path of a SQLite file still leads to the file that this process holds open.

SQLite goes on writing into a file that was removed, moved or written over, and calls each commit a success. So the
committer asks this module after each commit, before it answers anybody: the file was still there after the commit.

The check compares the device and inode of the file and of the two files beside it (where SQLite looks for them: links
are followed), the first bytes of the WAL, and the first 100 bytes of the file itself. These hold a mark that each file
gets once (SQLite's `application_id`) and a count of changes that only grows. So another file that is copied over ours
is seen, and an older copy of ours is seen too. A copy that is no older by this count (no page was added or freed
since) is not seen, nor is what somebody writes behind the first page.
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from whatsms_events.errors import StorageReplacedError

HEADER_BYTES: Final = 100
MAGIC: Final = b"SQLite format 3\0"
_COUNT: Final = struct.Struct(">24xI")
_MARK: Final = struct.Struct(">68xI")
BESIDE: Final = ("-wal", "-shm")
WAL_MAGIC: Final = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
"""What a WAL begins with (SQLite's file format, 4.1). One that a checkpoint has emptied has no byte."""


Identity = tuple[int, int]
"""Device and inode."""


@dataclass(slots=True)
class _Descriptor:
    number: int
    identity: Identity
    users: int = 0


_descriptors: Final[dict[Identity, _Descriptor]] = {}
"""One for each file, however often this process has it open.

POSIX drops all locks that a process has on a file when it closes any descriptor of that file, SQLite's locks too; then
another process may remove a WAL that is in use. So ours is closed after the last connection.
"""


class HeldFile:
    """The file of one open database. `mark` and `beside` are set once it is migrated and a connection stays open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = str(path)
        self._descriptor = _share(path)
        self._beside: tuple[Identity | None, ...] = ()
        self._mark: int | None = None
        self._marked = False  # in the file itself: until a checkpoint the mark is in the WAL alone
        self._count = 0

    def hold(self, mark: int) -> None:
        """Take in the file's mark and what is beside it. A connection must be open, and stay open until `release`."""
        self._beside = tuple(_identity(path) for path in self._paths_beside())
        self._mark = mark

    def check(self) -> None:
        """Raise StorageReplacedError where the path does not lead to what is held; its message says what to do."""
        problem = self._moved()
        if problem is None:
            beside = self._paths_beside()
            problem = self._beside_moved(beside) or self._cut(beside[0]) or self._overwritten()
        if problem is not None:
            raise StorageReplacedError(problem)

    def release(self) -> None:
        """Close the descriptor where nobody else uses it; after the last connection."""
        self._descriptor.users -= 1
        if not self._descriptor.users:
            del _descriptors[self._descriptor.identity]
            os.close(self._descriptor.number)

    def _moved(self) -> str | None:
        found = _identity(self._name)
        if found == self._descriptor.identity:
            return None
        what = "removed or moved" if found is None else "replaced by another file"
        return (
            f"{self._path} was {what} while in use. Move it back, with its -wal and -shm, and the service goes on by "
            f"itself. If it was deleted, save the only copy from /proc/{os.getpid()}/fd before you restart."
        )

    def _paths_beside(self) -> list[str]:
        """Return where SQLite would look for the files beside ours: beside the file that a link leads to."""
        # What leads to the folder leads to both; only a link in its own place leads elsewhere.
        real = os.path.realpath(self._name) if os.path.islink(self._name) else self._name  # noqa: PTH114 - text, as below
        return [real + suffix for suffix in BESIDE]

    def _beside_moved(self, beside: Sequence[str]) -> str | None:
        for path, identity in zip(beside, self._beside, strict=False):
            if _identity(path) != identity:
                return (
                    f"{path} was removed or replaced while in use. Move it back, or stop the service with SIGTERM "
                    f"(never SIGKILL), which writes what it holds into {self._path.name}, and start it again."
                )
        return None

    def _cut(self, wal: str) -> str | None:
        """Tell whether somebody cut the WAL: SQLite goes on behind the hole, and reads nothing of it after a crash."""
        if not self._beside:
            return None
        try:
            number = os.open(wal, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            start = os.read(number, len(WAL_MAGIC[0]))
        except OSError:
            return None
        finally:
            os.close(number)  # SQLite locks no byte of this file, so this drops no lock of ours
        if not start or start in WAL_MAGIC:
            return None
        return (
            f"{wal} was cut or written over while in use, so what was committed of late may be lost. Copy the folder, "
            f"then stop the service with SIGTERM (never SIGKILL), and check {self._path.name} before the next start."
        )

    def _overwritten(self) -> str | None:
        if self._mark is None:
            return None
        header = os.pread(self._descriptor.number, HEADER_BYTES, 0)
        if len(header) == HEADER_BYTES and header.startswith(MAGIC):
            (mark,), (count,) = _MARK.unpack_from(header), _COUNT.unpack_from(header)
            if (mark == self._mark or not (mark or self._marked)) and count >= self._count:
                self._marked, self._count = mark == self._mark, count
                return None
        return (
            f"{self._path} was written over while in use (a restored backup?). Stop the service with SIGKILL, remove "
            f"{self._path.name}-wal and {self._path.name}-shm, copy the wanted file once more, and start again."
        )


def _identity(path: str) -> Identity | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - with text: a Path takes as long again, and this runs at each commit
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _share(path: Path) -> _Descriptor:
    identity = _identity(str(path))
    shared = _descriptors.get(identity) if identity is not None else None
    if shared is None:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        opened = os.fstat(number)
        shared = _Descriptor(number, (opened.st_dev, opened.st_ino))
        _descriptors[shared.identity] = shared
    shared.users += 1
    return shared

"""A file of JSON lines that several processes record into. No network.

- A line is written by one write, under a lock that the system releases when its holder dies.
- Nothing is deleted: a last line that a crash cut off, or that is damaged, is moved to `FILE.unfinished`.
- The file is opened for each line: an editor may have replaced it.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mockchat.core import wire
from mockchat.core.dataset import BYTE_ORDER_MARK
from mockchat.core.entries import Conversation, DatasetError
from mockchat.server import recorder

_LOCK_ATTEMPTS = 200
_LOCK_PAUSE = 0.01  # seconds


class RecordFile:
    """The file at `path`, made if it is missing. `warn` is called with a sentence when a line is moved away.

    Raises `DatasetError` if the file can't be written, or has a line that is not an entry.
    """

    def __init__(self, path: Path, warn: Callable[[str], object]) -> None:
        self.path = path
        self._warn = warn
        self._size = 0  # Bytes of the lines that were read.
        self._read: set[int] = set()  # Their hashes.
        self._write(b"")  # Reads the file, and ends its last line.

    def append(self, recorded: Conversation) -> bool:
        """Append what `recorder.conversation` has made; False if the file has that line already.

        Raises `DatasetError`, and then nothing was written.
        """
        return self._write(recorder.line(recorded))

    def _write(self, line: bytes) -> bool:
        try:
            with self.locked() as file:
                self._read_new_lines()
                if hash(line) in self._read:
                    return False
                size = file.seek(0, os.SEEK_END)
                if size > self._size:  # The last line lacks its end.
                    line = b"\n" + line
                if file.write(line) < len(line):
                    file.truncate(size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return True
        except OSError as error:
            raise DatasetError(f"{self.path}: can't be recorded into: {error.strerror}") from None

    @contextmanager
    def locked(self) -> Iterator[BinaryIO]:
        """The file that has this name now, locked against other recorders."""
        if self.path.exists() and not self.path.is_file():
            raise DatasetError(f"{self.path}: is not a regular file: name another to record into")
        for _ in range(_LOCK_ATTEMPTS):
            with self.path.open("ab+", buffering=0) as file:
                if self._lock(file):
                    yield file
                    return
            time.sleep(_LOCK_PAUSE)
        raise DatasetError(f"{self.path}: another process keeps it locked: end that, or record into another file")

    def _lock(self, file: BinaryIO) -> bool:
        """Lock the file; False if another process has locked it, or it has lost its name."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except (BlockingIOError, FileNotFoundError):
            return False

    def _read_new_lines(self) -> None:
        """Read the lines that were written since the last time; move an unfinished one away."""
        with self.path.open("rb") as file:
            if self._size:
                file.seek(self._size - 1)
                if file.read(1) != b"\n":  # Somebody has edited the file: read all of it again.
                    self._size = file.seek(0)
                    self._read.clear()
            for line in file:
                if not _is_entry(line if self._size else line.removeprefix(BYTE_ORDER_MARK)):
                    self._move(line)
                elif line.endswith(b"\n"):
                    self._size += len(line)
                    self._read.add(hash(line))

    def _move(self, line: bytes) -> None:
        """Move a last line that begins as ours do and has no end; raises `DatasetError` for any other line."""
        number = 1 + self.path.read_bytes()[: self._size].count(b"\n")
        if line.endswith(b"\n") or not recorder.BEGINNING.startswith(line[: len(recorder.BEGINNING)]):
            problem = f"line {number} is not an entry of JSON lines: mend it, or record into another file"
            raise DatasetError(f"{self.path}: {problem}")
        aside = self.path.with_name(f"{self.path.name}.unfinished")
        with aside.open("ab") as file:
            file.write(line + b"\n")
        os.truncate(self.path, self._size)
        self._warn(f"{self.path}: line {number} was never finished, as after a crash: it is moved to {aside}")


def _is_entry(line: bytes) -> bool:
    """True for a JSON object, and for a blank line."""
    try:
        return not line.strip() or isinstance(wire.loads(line), dict)
    except ValueError:
        return False

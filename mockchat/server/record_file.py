"""The file of JSON lines that is recorded into: one server's at a time, whole after any crash. No network.

Rules that hold here:

- Nothing is written or removed but under a lock, which the system releases when its holder dies.
- A line is written by one write and closed with the line's end, so that a crash leaves one unfinished line at most.
- Whoever edits the file meanwhile (editors put another in its place) loses nothing: it is looked up for each line.
"""

import errno
import os
from pathlib import Path
from typing import BinaryIO

import ujson

from mockchat.core.entries import Conversation, DatasetError
from mockchat.server import recorder

try:
    import fcntl
except ImportError:  # Windows has no such locks.
    fcntl = None  # type: ignore[assignment]


class RecordFile:
    """The file at `path`, made if it is not there, locked until it is closed.

    An unfinished last line, as a crash leaves it, is removed; then `repaired` is a line that says so. Raises
    `DatasetError` where the file can't be written, is another server's, or has another form than JSON lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        try:
            self._made = not path.exists()
            if not (self._made or path.is_file()):
                raise DatasetError(f"{path}: is no regular file, so nothing can be recorded into it")
            self._open()
            self.repaired = self._repair()
        except OSError as error:
            self.close()
            raise DatasetError(f"{path}: can't be recorded into: {error.strerror}") from None
        except DatasetError:
            self.close()
            raise

    def append(self, recorded: Conversation) -> None:
        """Append a conversation of which the last message is the only reply; raises `OSError`, and then nothing was."""
        file = self._open()
        line = recorder.line(recorded)
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # Somebody has edited it meanwhile.
                line = b"\n" + line
        if file.write(line) < len(line):
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Let others record into it. Where it was not there before and has nothing in it, it is removed."""
        if self._file is not None:
            if self._made and os.fstat(self._file.fileno()).st_size == 0 and self._is_there(self._file):
                Path(os.path.realpath(self.path)).unlink()
            self._file.close()
            self._file = None

    def _open(self) -> BinaryIO:
        """The file that has this name now, locked."""
        while self._file is None or not self._is_there(self._file):
            if self._file is not None:
                self._file.close()
                self._file = None
            file = self.path.open("ab+", buffering=0)
            try:
                if fcntl:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.close()
                if isinstance(error, BlockingIOError):
                    error.strerror = "another server records into it, so give each a file of its own"
                raise
            self._file = file
        return self._file

    def _is_there(self, file: BinaryIO) -> bool:
        """Whether it is still this file that has the name."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def _repair(self) -> str | None:
        file = self._open()
        lines, first, last = 0, b"", b""
        with self.path.open("rb") as reading:
            for last in reading:
                lines += 1
                first = first or last
        finished = last.endswith(b"\n") or _is_entry(last)
        ours = (lines == 1 or _is_entry(first)) and recorder.BEGINNING.startswith(last[: len(recorder.BEGINNING)])
        if last and not finished and ours:
            file.truncate(file.seek(0, os.SEEK_END) - len(last))
            return (
                f"{self.path}: line {lines} was never finished, as after a crash: its {len(last):,} bytes are removed"
            )
        if first and not _is_entry(first):
            raise DatasetError(f"{self.path}: is not JSON lines, an entry a line, so nothing can be recorded into it")
        if finished and not last.endswith(b"\n"):
            file.write(b"\n")
        return None


def _is_entry(line: bytes) -> bool:
    try:
        return isinstance(ujson.loads(line), dict)
    except ValueError:
        return False

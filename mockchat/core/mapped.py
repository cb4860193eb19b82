"""An index that forked processes share.

Reading a Python object writes its reference count, so a forked process gets a copy of the object's page. Recordings
and ids are therefore in a file that each process maps, and copied out of it when read. The rest of the index is small.
"""

import mmap
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, BinaryIO

from mockchat.core.index import ResponseIndex

_HEAD = 256  # bytes


class Mapped(Sequence[bytes]):
    """Byte strings in a file. Set `memory` to the file's mapping before reading."""

    def __init__(self, strings: Sequence[bytes], file: BinaryIO) -> None:
        self._starts = array("Q", [file.tell()])
        self.memory: memoryview
        for string in strings:
            file.write(string)
            self._starts.append(file.tell())
        file.flush()

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: Any) -> Any:
        return self.memory[self._starts[number] : self._starts[number + 1]].tobytes()

    def _head(self, number: int) -> bytes:
        start, end = self._starts[number], self._starts[number + 1]
        return self.memory[start : min(end, start + _HEAD)].tobytes()

    def before(self, key: bytes) -> int:
        """`bisect_left`: first by the first bytes, then by whole strings, each of which is copied to be compared."""
        head, numbers = key[:_HEAD], range(len(self))
        low = bisect_left(numbers, head, key=self._head)
        high = bisect_right(numbers, head, lo=low, key=self._head)
        return bisect_left(self, key, low, high)


def share(index: ResponseIndex, file: BinaryIO) -> None:
    """Move the recordings and ids of an index to a file. It can't grow any more. Call `map_file` before a lookup."""
    plain = index.said is index.recordings
    index.recordings = recordings = Mapped(index.recordings, file)  # type: ignore[assignment]
    index.said = recordings if plain else Mapped(index.said, file)  # type: ignore[assignment]
    index.ids = Mapped(index.ids, file)  # type: ignore[assignment]
    index.numbers = array("Q", index.numbers)  # type: ignore[assignment]
    index.before = recordings.before


def map_file(index: ResponseIndex, file: BinaryIO) -> None:
    """Map the file of a shared index; forked processes inherit the mapping."""
    memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    for column in (index.recordings, index.said, index.ids):
        column.memory = memory  # type: ignore[attr-defined]

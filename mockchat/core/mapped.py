"""The index in memory that forked processes share, whatever they look up.

Python counts references beside an object's content, so looking at an object writes there, and a forked process gets a
copy of its own of the page. So the recordings and ids are put into a file that every process maps, and what is looked
at is copied out of it. What is left of the index is small.
"""

import mmap
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, BinaryIO

from mockchat.core.index import ResponseIndex

_HEAD = 256  # bytes


class Mapped(Sequence[bytes]):
    """Byte strings in a file; none can be looked at before `map`."""

    def __init__(self, strings: Sequence[bytes], file: BinaryIO) -> None:
        self._starts = array("Q", [file.tell()])
        self._memory: memoryview
        for string in strings:
            file.write(string)
            self._starts.append(file.tell())
        file.flush()

    def map(self, memory: memoryview) -> None:
        """Look them up in this memory, which is that of the file."""
        self._memory = memory

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: Any) -> Any:
        return self._memory[self._starts[number] : self._starts[number + 1]].tobytes()

    def _head(self, number: int) -> bytes:
        start, end = self._starts[number], self._starts[number + 1]
        return self._memory[start : min(end, start + _HEAD)].tobytes()

    def before(self, key: bytes) -> int:
        """`bisect_left` in sorted strings: by their first bytes, and then in what is left, for each look is a copy."""
        head, numbers = key[:_HEAD], range(len(self))
        low = bisect_left(numbers, head, key=self._head)
        high = bisect_right(numbers, head, lo=low, key=self._head)
        return bisect_left(self, key, low, high)


def share(index: ResponseIndex, file: BinaryIO) -> None:
    """Move what an index has of each recording to a file. It can't grow any more, nor be asked before `map_file`."""
    plain = index.said is index.recordings
    index.recordings = recordings = Mapped(index.recordings, file)  # type: ignore[assignment]
    index.said = recordings if plain else Mapped(index.said, file)  # type: ignore[assignment]
    index.ids = Mapped(index.ids, file)  # type: ignore[assignment]
    index.numbers = array("Q", index.numbers)  # type: ignore[assignment]
    index.before = recordings.before


def map_file(index: ResponseIndex, file: BinaryIO) -> None:
    """Look up in the file what was moved there; for each process that did not inherit a mapped index."""
    memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    for column in (index.recordings, index.said, index.ids):
        column.map(memory)  # type: ignore[attr-defined]

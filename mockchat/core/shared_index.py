"""The index in memory that forked processes share, whatever they look up.

Python counts references beside an object's content, so that to look at a message is to write there, and a process that
was forked gets a copy of its own of every page on which it looks at one. So the messages stand in a file that every
process maps, and a message that is looked at is copied out of it. What else the index is made of is small.
"""

import mmap
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import BinaryIO

from mockchat.core import wire
from mockchat.core.index import ResponseIndex


class _MessagesInFile(Sequence[bytes]):
    """Messages that stand in a file as in a request: each but the empty ones is followed by what is between two."""

    def __init__(self, messages: Sequence[bytes], file: BinaryIO) -> None:
        self._starts = array("Q", [0])
        self._text: memoryview
        for message in messages:
            if message:
                file.write(message)
                file.write(wire.BETWEEN)
            self._starts.append(file.tell())
        file.flush()

    def map(self, file: BinaryIO) -> None:
        self._text = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> bytes:  # type: ignore[override]
        start, following = self._starts[number], self._starts[number + 1]
        return self._text[start : following - len(wire.BETWEEN)].tobytes() if start < following else b""

    def several(self, first: int, end: int) -> memoryview:
        """The messages from `first` to the one before `end`, none of them empty, each with what is behind it."""
        return self._text[self._starts[first] : self._starts[end]]


class SharedIndex(ResponseIndex):
    """Takes an index over, and moves its messages to a file; it can't grow.

    Nothing can be looked up before `map`, which each process calls that did not inherit a mapped index.
    """

    _leading: _MessagesInFile  # type: ignore[assignment]

    def __init__(self, index: ResponseIndex, file: BinaryIO) -> None:
        vars(self).update(vars(index))
        self._leading = _MessagesInFile(index._leading, file)

    def map(self, file: BinaryIO) -> None:
        """Look the messages up, from now on, in the file to which they were moved."""
        self._leading.map(file)

    def _several(self, prefix: int, count: int) -> bytes | memoryview:
        run = bisect_right(self._run_starts, prefix - 1)
        end = self._run_starts[run] if run < len(self._run_starts) else len(self._leading) - 1
        return self._leading.several(prefix, prefix + count) if prefix + count <= end else b""

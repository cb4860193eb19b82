"""Read files of recordings: conversations in wire form.

A file is a JSON array of entries, JSON lines (one entry a line), or a single entry; UTF-8, in any layout, gzipped or
not. Its first bytes decide which it is, not its name.

- An array is parsed block by block, to save memory. The result is that of parsing the whole file: a block counts only
  if it is a JSON array once it is in brackets, and such arrays, joined by commas, are the whole array.
- Nothing is skipped in silence. A file that can't be read raises a `DatasetError` of one line.
"""

import gc
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mockchat.core import entries, foreign, wire
from mockchat.core.entries import Conversation, DatasetError, EntryError

_WHITESPACE = b" \t\r\n"
_GZIP = b"\x1f\x8b"  # The magic number, https://www.rfc-editor.org/rfc/rfc1952#page-6
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PIECE_ID = re.compile("(.*)_([0-9]{1,18})", re.DOTALL)  # The conversation's id, and the position of the first message.
_FIRST_KEY = re.compile(rb'\[\s*\{\s*("[^"\\]*")')
File = io.BufferedReader | gzip.GzipFile


@dataclass(slots=True)
class Dataset:
    """The conversations of files, in the order of their first pieces, and counts of the files' entries."""

    conversations: list[Conversation]
    entries: int = 0
    repeated: int = 0  # The same as an earlier entry.
    joined: int = 0  # Continuing an earlier piece of their conversation.
    misaligned: int = 0  # Joined pieces whose position does not line up.

    @property
    def replies(self) -> int:
        return sum(conversation.replies for conversation in self.conversations)

    @property
    def unanswered(self) -> int:
        """The number of conversations without a reply."""
        return sum(not conversation.replies for conversation in self.conversations)


def load(
    *paths: Path,
    stitch: bool = True,
    progress: Callable[[int], object] = lambda size: None,
    block_size: int = 256 * 1024,  # bytes
) -> Dataset:
    """Read files of recordings as one dataset.

    With `stitch`, entries of a file whose ids differ only in a final `_<digits>` are joined, in file order; of others,
    those with the same id, messages and details count once. Otherwise each entry is a conversation. One without an id
    is called `entry 3`, by its position from 0; of several files, `entry 3 of chats.jsonl`. `progress` is called after
    each read with its size in bytes. Raises `DatasetError` if a file can't be read, or no file has a reply.
    """
    dataset = Dataset([])
    collecting = gc.isenabled()
    gc.disable()  # Millions of new objects and no garbage: collecting would double the time.
    try:
        for path in paths:
            try:
                with io.BufferedReader(_WatchedFile(path, progress)) as file:
                    _add(dataset, _entries(file, block_size), stitch, f" of {path}" if len(paths) > 1 else "")
            except (gzip.BadGzipFile, zlib.error, EOFError) as error:
                raise DatasetError(f"{path}: is broken gzip, fetch it again: {error}") from None
            except OSError as error:
                raise DatasetError(f"{path}: {foreign.explain(path) or error.strerror or error}") from None
            except DatasetError as error:
                raise DatasetError(f"{path}: {foreign.explain(path) or error}") from None
    finally:
        if collecting:
            gc.enable()
    if not any(conversation.replies for conversation in dataset.conversations):
        names = ", ".join(map(str, paths))
        raise DatasetError(f"{names}: no assistant message is recorded, so there is nothing to answer with")
    return dataset


class _WatchedFile(io.FileIO):
    """A file that reports the size of each read."""

    def __init__(self, path: Path, progress: Callable[[int], object]) -> None:
        super().__init__(path)
        self._progress = progress

    def readinto(self, buffer: Any, /) -> int:
        size = super().readinto(buffer)
        self._progress(size)
        return size


# Entries to conversations


class _Pieces:
    """A conversation made of pieces."""

    def __init__(self, name: str) -> None:
        self.conversation = Conversation(name, b"")
        self._recordings = [b""]  # The joined pieces, then each piece not yet joined.
        self._waiting = 0  # Bytes of the pieces not yet joined.
        self._count = 0  # The number of messages.
        self._next_position = 0  # The least position of a next piece that lines up.

    def add(self, position: int, piece: Conversation, count: int) -> bool:
        """Append a piece of `count` messages, without the first if that repeats the last one. True if it lines up."""
        recording, start = piece.recording, 0
        last = self._recordings[-1].rpartition(wire.BETWEEN)[2]
        if last and recording.startswith(last):
            recording, start = recording[len(last + wire.NEXT) :], 1
        if recording:
            self._recordings.append(recording)
            self._waiting += len(recording)
        if piece.details:
            moved = {self._count - start + number: each for number, each in piece.details.items() if number >= start}
            self.conversation.details = {**self.conversation.details, **moved}
        self._count += count - start
        lines_up = position >= self._next_position
        self._next_position = position + count - 1
        return lines_up

    def join(self, *, at_last: bool) -> None:
        """Join the pieces `at_last`, or once they are an eighth of what is joined: that keeps the time linear."""
        if at_last or 8 * self._waiting > len(self._recordings[0]):
            self.conversation.recording = wire.NEXT.join(filter(None, self._recordings))
            self._recordings = [self.conversation.recording]
            self._waiting = 0


def _add(dataset: Dataset, lines_and_entries: Iterator[tuple[int, Any]], stitch: bool, of_file: str) -> None:
    """Add the entries of one file; `of_file` is the end of the names of entries without an id."""
    whole: set[object] = set()  # Entries that are whole conversations: id, messages and details.
    begun: dict[str, _Pieces] = {}  # By the conversation's id.
    last: _Pieces | None = None
    for number, (line, entry) in enumerate(lines_and_entries):
        try:
            read, count = entries.read(entry, f"entry {number}{of_file}")
        except EntryError as error:
            raise DatasetError(f"{_called(number, line, entry)}: {error}") from None
        dataset.entries += 1
        stitched = stitch and "id" in entry
        if stitched and (match := _PIECE_ID.fullmatch(read.id)):
            name, position = match[1], int(match[2])
            if (pieces := begun.get(name)) is None:
                pieces = begun[name] = _Pieces(name)
                dataset.conversations.append(pieces.conversation)
            else:
                dataset.joined += 1
            dataset.misaligned += not pieces.add(position, read, count)
            if last is not None and last is not pieces:
                last.join(at_last=False)  # Pieces that are freed early leave fewer holes in memory.
            last = pieces
            continue
        same = read.id, read.recording, tuple(read.details.items())
        if stitched and same in whole:
            dataset.repeated += 1
            continue
        if stitched:
            whole.add(same)
        dataset.conversations.append(read)
    for pieces in begun.values():
        pieces.join(at_last=True)


def _called(number: int, line: int, entry: Any) -> str:
    """Name an entry for an error; `line` is 0 in an array."""
    entry_id = entry.get("id") if isinstance(entry, dict) else None
    called = f"id {str(entry_id)[:60]!r}" if type(entry_id) in (str, int) else "without id"
    return f"entry {number} (line {line}, {called})" if line else f"entry {number} ({called})"


# Bytes to entries


def _entries(plain: "io.BufferedReader[Any]", block_size: int) -> Iterator[tuple[int, Any]]:
    """The entries of a file in any form, each with the number of its line (0 in an array)."""
    file: File = gzip.GzipFile(fileobj=plain) if plain.peek(2).startswith(_GZIP) else plain
    if file.peek(3).startswith(BYTE_ORDER_MARK):
        file.read(3)
    line = 1
    while (first := file.peek(1)[:1]) and first in _WHITESPACE:
        line += file.read(1) == b"\n"
    if not first:
        raise DatasetError("is empty")
    if first == b"[":
        return ((0, entry) for block in _read_array(file, line, block_size) for entry in block)
    return _read_lines(file, line)


def _read_lines(file: File, first: int) -> Iterator[tuple[int, Any]]:
    """The entries of JSON lines, each with its line number; `first` is that of the next line."""
    for number, line in enumerate(file, first):
        if line.isspace():
            continue
        try:
            entry = wire.loads(line)
        except ValueError:
            if number == first:  # It may be the only entry, laid out on several lines.
                line += b"".join(file)
            entry = _parse(line, (number, 1))
        yield number, entry


def _read_array(file: File, line: int, block_size: int) -> Iterator[list[Any]]:
    """The entries of an array that begins on this line, in lists: one for each block of about `block_size` bytes.

    A block ends where an entry seems to begin. If there is no such place, or the block is not a list of whole entries,
    it grows, up to the rest of the file.
    """
    pending, place = b"", (line, 1)
    size = block_size
    while data := file.read(size):
        pending += data
        end = _entry_boundary(pending)
        try:
            block = wire.loads(pending[:end] + b"]") if end else []
        except ValueError:
            block = []
        if not block:
            size = len(pending)  # Doubling keeps the time linear in the file's size.
            continue
        yield block
        place = _advance(place, pending[:end])
        pending = b"[" + pending[end + 1 :]
        size = block_size
    yield _parse(pending, place)


def _entry_boundary(block: bytes) -> int:
    """The position of the last comma that seems to separate two entries, or 0.

    An entry seems to begin where an object follows another one and has the same first key as the block's first entry.
    """
    first = _FIRST_KEY.match(block)
    last = first and re.match(rb".*\}\s*(,)\s*\{\s*" + re.escape(first[1]), block, re.DOTALL)
    return last.start(1) if last else 0


def _advance(place: tuple[int, int], passed: bytes) -> tuple[int, int]:
    """The line and the byte in it behind these bytes, which begin at a place."""
    line, byte = place
    lines = passed.count(b"\n")
    return line + lines, len(passed) - passed.rfind(b"\n") if lines else byte + len(passed)


def _parse(data: bytes, place: tuple[int, int]) -> Any:
    """Parse JSON that begins at a place of the file. Raises a `DatasetError` that names the place of a syntax error.

    Python's parser finds it: ujson names none. `strict=False` allows control characters in texts, as ujson does.
    """

    def at(position: int) -> str:
        return "at line {}, byte {}".format(*_advance(place, data[:position]))

    try:
        return wire.loads(data)
    except ValueError as error:
        problem = f"is not JSON: {error}"
    is_cut_off = False
    try:
        json.loads(data.decode(errors="surrogatepass"), strict=False)
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 {at(error.start)}: byte 0x{data[error.start]:02x}"
        problem += " (iconv -f CP1252 -t UTF-8 may convert it)"
        is_cut_off = error.reason == "unexpected end of data"
    except RecursionError:
        problem = "is nested too deeply"
    except json.JSONDecodeError as error:
        position = len(error.doc[: error.pos].encode(errors="surrogatepass"))
        problem = f"is not JSON {at(position)}: {error.msg}"
        is_cut_off = error.msg.startswith("Unterminated string") or error.pos >= len(error.doc)
    except ValueError as error:
        problem = f"is not JSON: {error}"
    if is_cut_off:
        problem = f"is cut off {at(len(data))}: fetch it again, or remove that entry"
    raise DatasetError(problem)

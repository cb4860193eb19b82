"""Files of recordings → conversations in wire form.

A file is a JSON array of entries, JSON lines (an entry a line, as in OpenAI's fine-tuning files), or one entry; UTF-8,
in any layout, gzipped or not. Its first bytes say which of these it is, its name does not matter. What an entry may
look like, `core/entries.py` says.

Rules that hold here:

- A big array is parsed block by block, so that never all of it is in memory as Python objects. The result is that of
  parsing the whole file: a block is taken only if it is a JSON array once it has brackets around it, and such arrays,
  joined by commas, are the array that was cut.
- Nothing is skipped in silence. A file that can't be used ends in a `DatasetError` of one line.
"""

import gc
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import ujson

from mockchat.core import entries, foreign
from mockchat.core.entries import Conversation, DatasetError, EntryError

BLOCK_SIZE = 256 * 1024  # bytes
WHITESPACE = b" \t\r\n"
GZIP = b"\x1f\x8b"  # The magic number, https://www.rfc-editor.org/rfc/rfc1952#page-6
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

File = io.BufferedReader | gzip.GzipFile


@dataclass(slots=True)
class Dataset:
    """What the files hold: conversations in the order of their first pieces, and how they were made.

    `entries` is the number of entries in the files, `repeated` the number of those that an earlier one says word for
    word, `joined` the number of those that were joined on to an earlier piece of their conversation, `misaligned` the
    number of joined pieces that do not line up with it.
    """

    conversations: list[Conversation]
    entries: int = 0
    repeated: int = 0
    joined: int = 0
    misaligned: int = 0

    @property
    def replies(self) -> int:
        """The number of replies: of assistant messages that answer their history."""
        return sum(len(conversation.replies) for conversation in self.conversations)

    @property
    def unanswered(self) -> int:
        """The number of conversations without a reply."""
        return sum(not conversation.replies for conversation in self.conversations)


def load(
    *paths: Path,
    stitch: bool = True,
    progress: Callable[[int], object] = lambda size: None,
    block_size: int = BLOCK_SIZE,
) -> Dataset:
    """Read files of recordings as one dataset.

    With `stitch`, entries of a file whose ids end in `_<digits>`, and are the same but for that, are joined in file
    order. An entry with another id is a whole conversation; where another one of the file has both the same id and the
    same messages, they count once. Without `stitch` every entry is a conversation of its own. One without an id is
    called `entry 3`, by its position from 0, and of several files `entry 3 of chats.jsonl`. `progress` is called with
    the number of bytes that each read took from a file. Raises `DatasetError` where a file can't be read or is not such
    a file, or none holds an assistant message.
    """
    dataset = Dataset([])
    collecting = gc.isenabled()
    gc.disable()  # Millions of new objects and no garbage: collecting would double the time.
    try:
        for path in paths:
            try:
                with _open(path, progress) as file:
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
    if not dataset.replies:
        names = ", ".join(map(str, paths))
        raise DatasetError(f"{names}: no assistant message is recorded, so there is nothing to answer with")
    return dataset


class _WatchedFile(io.FileIO):
    """A file that tells how much of it is read, whoever reads."""

    def __init__(self, path: Path, progress: Callable[[int], object]) -> None:
        super().__init__(path)
        self._progress = progress

    def readinto(self, buffer: Any, /) -> int:
        size = super().readinto(buffer)
        self._progress(size)
        return size


def _open(path: Path, progress: Callable[[int], object]) -> io.BufferedReader:
    return io.BufferedReader(_WatchedFile(path, progress))


# Entries to conversations


def _add(dataset: Dataset, lines_and_entries: Iterator[tuple[int, Any]], stitch: bool, of_file: str) -> None:
    """Add the entries of one file, pieces of a conversation joined; `of_file` ends the names of those without an id."""
    whole: set[object] = set()  # The conversations that are an entry each: id, messages and details.
    begun: dict[str, Conversation] = {}  # The conversations that may go on, by id.
    next_position: dict[str, int] = {}  # By id: the least position at which the next piece lines up.
    for number, (line, entry) in enumerate(lines_and_entries):
        try:
            entry_id, messages, details = entries.read(entry)
        except EntryError as error:
            raise DatasetError(f"{_place(number, line, entry)}: {error}") from None
        dataset.entries += 1
        if not stitch or entry_id is None:
            name = f"entry {number}{of_file}" if entry_id is None else entry_id
            dataset.conversations.append(Conversation(name, messages, details))
            continue
        name, position = split_id(entry_id)
        if position is None:
            known = len(whole)
            whole.add((name, tuple(messages), tuple(details.items())))
            if len(whole) > known:
                dataset.conversations.append(Conversation(name, messages, details))
            else:  # It was recorded twice, or two files were put together.
                dataset.repeated += 1
            continue
        if (conversation := begun.get(name)) is None:
            conversation = begun[name] = Conversation(name, messages, details)
            dataset.conversations.append(conversation)
        else:
            dataset.joined += 1
            dataset.misaligned += position < next_position[name]
            # Where the conversation was cut, some files have the last message again.
            repeated = conversation.messages[-1:] == messages[:1]
            conversation.extend(messages, details, start=1 if repeated else 0)
        next_position[name] = position + len(messages) - 1


def split_id(entry_id: str) -> tuple[str, int | None]:
    """Split `dcTB2RK_57` into the conversation's id and the position in it of this piece's first message.

    An id that does not end so is the conversation's own, and there is no position.
    """
    name, mark, digits = entry_id.rpartition("_")
    if not (mark and digits.isascii() and digits.isdigit()):
        return entry_id, None
    return name, int(digits) if len(digits) < 19 else sys.maxsize  # Python refuses to convert thousands of digits.


def _place(number: int, line: int, entry: Any) -> str:
    """Which entry it is, in words; `line` is 0 in an array."""
    entry_id = entry.get("id") if isinstance(entry, dict) else None
    called = f"id {_short(str(entry_id))}" if type(entry_id) in (str, int) else "without id"
    return f"entry {number} (line {line}, {called})" if line else f"entry {number} ({called})"


def _short(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:60] + "…")


# Bytes to entries


def _entries(plain: io.BufferedReader, block_size: int) -> Iterator[tuple[int, Any]]:
    """The entries of a file in any form, each with the number of its line (0 in an array)."""
    file: File = gzip.GzipFile(fileobj=plain) if plain.peek(2).startswith(GZIP) else plain
    if file.peek(3).startswith(BYTE_ORDER_MARK):
        file.read(3)
    line = 1
    while (first := file.peek(1)[:1]) and first in WHITESPACE:
        line += file.read(1) == b"\n"
    if not first:
        raise DatasetError("is empty")
    if first != b"[":
        return _read_lines(file, line)
    file.read(1)
    return ((0, entry) for block in _read_array(file, block_size) for entry in block)


def _read_lines(file: File, first: int) -> Iterator[tuple[int, Any]]:
    """The entries of a file that is no array, each with the number of its line; the next one to read is `first`."""
    for number, line in enumerate(file, first):
        if line.isspace():
            continue
        try:
            entry = ujson.loads(line)
        except ValueError:
            if number == first:  # It may be the only entry, laid out on several lines.
                line += b"".join(file)
            try:
                entry = ujson.loads(line)
            except ValueError as error:
                _refuse_syntax(line, str(error), line=number)
        yield number, entry


def _read_array(file: File, block_size: int) -> Iterator[list[Any]]:
    """The entries of an array whose opening bracket has been read: a list of them for each block of about that size.

    A block ends where an entry seems to begin. Where there is no such place in it, or what stands before the place is
    not made of whole entries, the block grows: if need be, to the rest of the file.
    """
    number = 0  # Of the next entry.
    last: Any = None  # The entry before it.
    pending = b""
    size = block_size
    while data := file.read(size):
        pending += data
        end = _entry_boundary(pending)
        try:
            block = ujson.loads(b"[%b]" % pending[:end]) if end else []
        except ValueError:
            block = []
        if not block:
            size = len(pending)  # Doubling keeps the time linear in the file's size.
            continue
        yield block
        number, last = number + len(block), block[-1]
        pending = pending[end + 1 :]
        size = block_size
    try:
        yield ujson.loads(b"[" + pending)
    except ValueError as error:
        _refuse_syntax(pending, str(error), number, last)


_FIRST_KEY = re.compile(rb'\s*\{\s*("[^"\\]*")')
_BEFORE_KEY = re.compile(rb"\}\s*(,)\s*\{\s*\Z")
_MOST_LAYOUT = 64  # Bytes from one entry's end to the next one's first key; more than people use.


def _entry_boundary(block: bytes) -> int:
    """The position of the last comma that seems to stand between two entries, 0 if there is none.

    An entry seems to begin where an object follows another and has the same first key as the block's first entry.
    """
    if first := _FIRST_KEY.match(block):
        key = len(block)
        while (key := block.rfind(first[1], first.end(), key)) > 0:
            if before := _BEFORE_KEY.search(block, max(0, key - _MOST_LAYOUT), key):
                return before.start(1)
    return 0


# What is wrong with a file that is not JSON


def _refuse_syntax(rest: bytes, reason: str, number: int = 0, last: Any = None, line: int = 0) -> NoReturn:
    """Raise a `DatasetError` that says where a file stops being JSON.

    `rest` is what could not be parsed: with `line`, the entry on that line, else the rest of an array, of which
    `number` entries were read before, and `last` is the last one of them. `reason` is ujson's, which does not say where
    it failed: so the entries are read once more, one at a time.
    """
    at_end = "is cut off {place}: fetch it again" + (", or remove that line" if line else "")
    try:
        text = rest.decode(errors="surrogatepass")
    except UnicodeDecodeError as error:
        text = rest[: error.start].decode(errors="surrogatepass")
        if error.reason != "unexpected end of data":
            at_end = f"is not UTF-8 {{place}}: byte 0x{rest[error.start]:02x} (iconv -f CP1252 -t UTF-8 may convert it)"
    read, entry, position, reason = _read_while_json(text, reason, only_one=line > 0)
    place = f"in the entry at line {line}" if line else "in its first entry"
    if number + read and not line:
        place = f"after {_place(number + read - 1, 0, entry if read else last)}"
    if position >= len(text):
        raise DatasetError(at_end.format(place=place))
    raise DatasetError(f"is not JSON {place}: {reason}")


def _read_while_json(text: str, reason: str, only_one: bool) -> tuple[int, Any, int, str]:
    """Read entries with commas between them, as far as they are JSON: `only_one`, or as many as there are.

    Returns how many are, the last of them, the position at which the text stops being JSON, and why: the given
    `reason` where each entry is JSON, but not what comes behind.
    """
    decoder = json.JSONDecoder(strict=False)  # As ujson, it lets control characters stand in a text.
    number, last = 0, None
    position = 0
    try:
        while True:
            start = _skip_space(text, position)
            entry, position = decoder.raw_decode(text, start)
            ujson.loads(text[start:position].encode(errors="surrogatepass"))
            number, last = number + 1, entry
            position = _skip_space(text, position)
            if only_one or text[position : position + 1] != ",":
                break
            position += 1
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:
        position = getattr(error, "pos", start)
        reason = getattr(error, "msg", str(error))
        if reason.startswith("Unterminated string"):
            position = len(text)
        elif "depth" in reason:
            reason = "nested too deeply"
    return number, last, position, reason


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position

"""Recorded conversations: files of them, in the forms that people have, read in blocks into wire form.

A file is a JSON array of entries, JSON lines (an entry a line, as in OpenAI's fine-tuning files), or one entry; UTF-8,
in any layout, gzipped or not. What it is, its first bytes say. An entry is of one of these forms, its `id` and a
`system` prompt beside the list are optional, further keys are ignored:

- `{"id": "dcTB2RK_0", "conversations": [{"from": "human", "value": "…"}, …]}` (ShareGPT and its kin),
- `{"messages": [{"role": "user", "content": "…"}, …]}` (OpenAI).

Rules that hold here:

- What a block gives is what parsing the whole file gives: a block counts only if it is a JSON array by itself,
  and arrays joined by commas are an array.
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

from mockchat.core import wire
from mockchat.core.program import ProgramError

BLOCK_SIZE = 256 * 1024
WHITESPACE = b" \t\r\n"
GZIP = b"\x1f\x8b"  # The magic number, https://www.rfc-editor.org/rfc/rfc1952#page-6
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# The key of an entry's list, and those of a message in it: the role and the text.
FORMS = {"conversations": ("from", "value"), "messages": ("role", "content")}

File = io.BufferedReader | gzip.GzipFile


class DatasetError(ProgramError):
    """The file can't be used; the text names the file, the place in it and what is wrong."""


class _EntryError(Exception):
    """An entry of the wrong shape; the text says what is wrong with it."""


@dataclass(slots=True)
class Conversation:
    """A whole conversation: its id, and its messages in wire form."""

    id: str
    messages: list[bytes]


@dataclass(slots=True)
class Dataset:
    """What the files hold: conversations in the order of their first pieces, and how they were made.

    `entries` is the number of entries in the files, `joined` the number of those that were joined on to an earlier
    piece of their conversation, `misaligned` the number of joined pieces that do not line up with it.
    """

    conversations: list[Conversation]
    entries: int = 0
    joined: int = 0
    misaligned: int = 0

    @property
    def replies(self) -> int:
        """The number of assistant messages."""
        return sum(wire.is_assistant(message) for found in self.conversations for message in found.messages)

    @property
    def unanswered(self) -> int:
        """The number of conversations without an assistant message."""
        return sum(not any(map(wire.is_assistant, found.messages)) for found in self.conversations)


def load(
    *paths: Path,
    stitch: bool = True,
    progress: Callable[[int], object] = lambda size: None,
    block_size: int = BLOCK_SIZE,
) -> Dataset:
    """Read files of recordings as one dataset.

    With `stitch`, entries of a file whose ids differ only in a final `_<digits>` are joined in file order; without it
    every entry is a conversation of its own. One without an id is called `entry 3`, by its position from 0, and of
    several files `entry 3 of chats.jsonl`. `progress` is called with the number of bytes that each read took from a
    file. Raises `DatasetError` where a file can't be read or is not such a file, or none holds an assistant message.
    """
    dataset = Dataset([])
    collecting = gc.isenabled()
    gc.disable()  # Millions of new objects and no garbage: collecting would double the time.
    try:
        for path in paths:
            try:
                with _open(path, progress) as file:
                    _collect(dataset, _entries(file, block_size), stitch, f" of {path}" if len(paths) > 1 else "")
            except (gzip.BadGzipFile, zlib.error, EOFError) as error:
                raise DatasetError(f"{path}: is broken gzip, fetch it again: {error}") from None
            except OSError as error:
                raise DatasetError(f"{path}: {error.strerror or error}") from None
            except DatasetError as error:
                raise DatasetError(f"{path}: {error}") from None
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


def conversation(entry: Any, name: str) -> Conversation:
    """The conversation of an entry; it is called `name` where it has no id. Raises `DatasetError`."""
    try:
        messages = _messages(entry)
    except _EntryError as error:
        raise DatasetError(f"{name}: {error}") from None
    return Conversation(entry.get("id", name), messages)


def _collect(dataset: Dataset, entries: Iterator[tuple[int, Any]], stitch: bool, of_file: str) -> None:
    found: dict[str, Conversation] = {}
    next_position: dict[str, int] = {}  # The least position at which a conversation's next piece lines up.
    for number, (line, entry) in enumerate(entries):
        try:
            messages = _messages(entry)
        except _EntryError as error:
            raise DatasetError(f"{_place(number, line, entry)}: {error}") from None
        dataset.entries += 1
        if not stitch or "id" not in entry:
            dataset.conversations.append(Conversation(entry.get("id", f"entry {number}{of_file}"), messages))
            continue
        name, position = split_id(entry["id"])
        if (conversation := found.get(name)) is None:
            conversation = found[name] = Conversation(name, messages)
            dataset.conversations.append(conversation)
        else:
            dataset.joined += 1
            dataset.misaligned += position < next_position[name]
            repeated = conversation.messages[-1:] == messages[:1]
            conversation.messages += messages[1:] if repeated else messages
        next_position[name] = position + len(messages) - 1


def split_id(entry_id: str) -> tuple[str, int]:
    """An entry's id as the conversation's id and the position of its first message (0 if it names none)."""
    name, mark, digits = entry_id.rpartition("_")
    if not (mark and digits.isascii() and digits.isdigit()):
        return entry_id, 0
    return name, int(digits) if len(digits) < 19 else sys.maxsize


def _messages(entry: Any) -> list[bytes]:
    if not isinstance(entry, dict):
        raise _EntryError(f"is {_kind(entry)}, not an object")
    lists = [key for key in FORMS if key in entry]
    if len(lists) != 1:
        raise _EntryError('must have either "conversations" or "messages"')
    [form] = lists
    for key, kind, expected in (("id", str, "a string"), ("system", str | None, "a string"), (form, list, "an array")):
        if key in entry and not isinstance(entry[key], kind):
            raise _EntryError(f'"{key}" is {_kind(entry[key])}, not {expected}')
    role, text = FORMS[form]
    messages = [wire.message("system", entry["system"])] if entry.get("system") else []
    for number, message in enumerate(entry[form]):
        try:
            messages.append(wire.message(wire.ROLES[message[role]], message[text]))
        except (KeyError, TypeError, AttributeError):
            messages.append(_unusual_message(number, message))
    return messages


def _unusual_message(number: int, message: Any) -> bytes:
    """A message of the other form, with its role in another case, text in parts or none; anything else is refused."""
    if not isinstance(message, dict):
        raise _EntryError(f"message {number} is {_kind(message)}, not an object")
    keys = next((keys for keys in FORMS.values() if keys[0] in message), None)
    if keys is None:
        raise _EntryError(f'message {number} lacks "from" or "role"')
    if "tool_calls" in message or "function_call" in message:  # They are said in place of a text.
        message = {keys[1]: ""} | message
    for key in keys:
        if key not in message:
            raise _EntryError(f'message {number} lacks "{key}"')
        if key != "content" and not isinstance(message[key], str):
            raise _EntryError(f'"{key}" of message {number} is {_kind(message[key])}, not a string')
    name, content = (message[key] for key in keys)
    if (role := wire.role(name)) is None:
        raise _EntryError(f"message {number} has the unknown role {_short(name)} (known: {', '.join(wire.ROLES)})")
    try:
        return wire.message(role, wire.plain_text(content))
    except ValueError as error:
        raise _EntryError(f"message {number}: {error}") from None


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _short(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:60] + "…")


def _place(number: int, line: int, entry: Any) -> str:
    entry_id = entry.get("id") if isinstance(entry, dict) else None
    called = f"id {_short(entry_id)}" if isinstance(entry_id, str) else "without id"
    return f"entry {number} (line {line}, {called})" if line else f"entry {number} ({called})"


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
    for number, line in enumerate(file, first):
        if line.isspace():
            continue
        try:
            entry = ujson.loads(line)
        except ValueError:
            if number == first:  # The only entry may stand on several lines.
                line += b"".join(file)
            try:
                entry = ujson.loads(line)
            except ValueError as error:
                _refuse_syntax(line, str(error), line=number)
        yield number, entry


def _read_array(file: File, block_size: int) -> Iterator[list[Any]]:
    """Yield the entries of an array whose bracket has been read in lists, a list a block.

    A block ends where an entry seems to begin. Where there is no such place, or what stands before it turns out to be
    no whole entries, the block grows, at the end to the whole file.
    """
    done = 0  # Entries yielded so far,
    last: Any = None  # and the last of them.
    pending = b""
    size = block_size
    while data := file.read(size):
        pending += data
        end = _entry_boundary(pending)
        try:
            entries = ujson.loads(b"[%b]" % pending[:end]) if end else []
        except ValueError:
            entries = []
        if not entries:
            size = len(pending)  # Doubling keeps the whole linear.
            continue
        yield entries
        done, last = done + len(entries), entries[-1]
        pending = pending[end + 1 :]
        size = block_size
    try:
        yield ujson.loads(b"[" + pending)
    except ValueError as error:
        _refuse_syntax(pending, str(error), done, last)


_FIRST_KEY = re.compile(rb'\s*\{\s*("[^"\\]*")')
_BEFORE_KEY = re.compile(rb"\}\s*(,)\s*\{\s*\Z")
_MOST_LAYOUT = 64  # Bytes from one entry's end to the next one's first key; more than people use.


def _entry_boundary(block: bytes) -> int:
    """The position of the last comma that seems to stand between two entries, 0 if there is none.

    An entry seems to begin where an object follows another and has the same first key as the block's first entry.
    """
    if first := _FIRST_KEY.match(block):
        found = len(block)
        while (found := block.rfind(first[1], first.end(), found)) > 0:
            if before := _BEFORE_KEY.search(block, max(0, found - _MOST_LAYOUT), found):
                return before.start(1)
    return 0


def _refuse_syntax(rest: bytes, reason: str, number: int = 0, last: Any = None, line: int = 0) -> NoReturn:
    """Find where the rest of the array, or the entry of a line, stops being JSON, and name the last good entry.

    ujson does not say where it failed, so the entries are read once more, one at a time.
    """
    at_end = "is cut off {place}: fetch it again" + (", or remove that line" if line else "")
    try:
        text = rest.decode(errors="surrogatepass")
    except UnicodeDecodeError as error:
        text = rest[: error.start].decode(errors="surrogatepass")
        if error.reason != "unexpected end of data":
            at_end = f"is not UTF-8 {{place}}: byte 0x{rest[error.start]:02x}"
    decoder = json.JSONDecoder(strict=False)
    position = 0
    try:
        while True:
            start = _skip(text, position)
            entry, position = decoder.raw_decode(text, start)
            ujson.loads(text[start:position].encode(errors="surrogatepass"))
            last, number = entry, number + 1
            position = _skip(text, position)
            if line or text[position : position + 1] != ",":
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
    place = f"in the entry at line {line}" if line else "in its first entry"
    if number and not line:
        place = f"after {_place(number - 1, 0, last)}"
    if position >= len(text):
        raise DatasetError(at_end.format(place=place))
    raise DatasetError(f"is not JSON {place}: {reason}")


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position

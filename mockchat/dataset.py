"""A recorded dataset: a ShareGPT file, read in blocks, as conversations in wire form.

The format is that of `ShareGPT_V3_unfiltered_cleaned_split.json`: a JSON array, in UTF-8 and any layout, of
`{"id": "dcTB2RK_0", "conversations": [{"from": "human", "value": "…"}, …]}`; further keys are ignored.

Rules that hold here:

- What a block gives is what parsing the whole file gives: a block counts only if it is a JSON array by itself,
  and arrays joined by commas are an array.
- Nothing is skipped in silence. A file that can't be used ends in a `DatasetError` of one line.
"""

import gc
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import ujson

from mockchat import wire

BLOCK_SIZE = 256 * 1024
WHITESPACE = b" \t\r\n"
COMMA = ord(",")


class DatasetError(Exception):
    """The file can't be used; the text is one line that names the file, the place and what is wrong."""


class _EntryError(Exception):
    """An entry of the wrong shape; the text says what is wrong with it."""


@dataclass(slots=True)
class Conversation:
    """A whole conversation: its id, and its messages in wire form."""

    id: str
    messages: list[bytes]


@dataclass(slots=True)
class Dataset:
    """What a file holds: its conversations in the order of their first pieces, and how they were made.

    `entries` is the number of entries in the file, `joined` the number of those that were joined on to an earlier
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
    path: Path,
    *,
    stitch: bool = True,
    progress: Callable[[int], object] = lambda size: None,
    block_size: int = BLOCK_SIZE,
) -> Dataset:
    """Read a ShareGPT file.

    With `stitch`, entries whose ids differ only in a final `_<digits>` are joined in file order; without it every
    entry is a conversation of its own. `progress` is called with the size in bytes of each block read.
    Raises `DatasetError` where the file can't be read, is not such a file, or holds no assistant message.
    """
    collecting = gc.isenabled()
    gc.disable()  # Millions of new objects and no garbage: collecting would double the time.
    try:
        with path.open("rb", buffering=0) as file:
            dataset = _collect(_read_blocks(file, progress, block_size), stitch)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from None
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from None
    finally:
        if collecting:
            gc.enable()
    if not dataset.replies:
        raise DatasetError(f"{path}: holds no assistant message, so there is nothing to answer with")
    return dataset


# Entries to conversations


def _collect(blocks: Iterator[list[Any]], stitch: bool) -> Dataset:
    dataset = Dataset([])
    found: dict[str, Conversation] = {}
    next_position: dict[str, int] = {}  # The least position at which a conversation's next piece lines up.
    for entries in blocks:
        for entry in entries:
            try:
                entry_id, messages = _entry(entry)
            except _EntryError as error:
                raise DatasetError(f"{_place(dataset.entries, entry)}: {error}") from None
            dataset.entries += 1
            if not stitch:
                dataset.conversations.append(Conversation(entry_id, messages))
                continue
            name, position = split_id(entry_id)
            if (conversation := found.get(name)) is None:
                conversation = found[name] = Conversation(name, messages)
                dataset.conversations.append(conversation)
            else:
                dataset.joined += 1
                dataset.misaligned += position < next_position[name]
                repeated = conversation.messages[-1:] == messages[:1]
                conversation.messages += messages[1:] if repeated else messages
            next_position[name] = position + len(messages) - 1
    return dataset


def split_id(entry_id: str) -> tuple[str, int]:
    """An entry's id as the conversation's id and the position of its first message (0 if it names none)."""
    name, mark, digits = entry_id.rpartition("_")
    if not (mark and digits.isascii() and digits.isdigit()):
        return entry_id, 0
    return name, int(digits) if len(digits) < 19 else sys.maxsize


def _entry(entry: Any) -> tuple[str, list[bytes]]:
    if not isinstance(entry, dict):
        raise _EntryError(f"is {_kind(entry)}, not an object")
    for key in ("id", "conversations"):
        if key not in entry:
            raise _EntryError(f'lacks "{key}"')
    if not isinstance(entry["id"], str):
        raise _EntryError(f'"id" is {_kind(entry["id"])}, not a string')
    if not isinstance(entry["conversations"], list):
        raise _EntryError(f'"conversations" is {_kind(entry["conversations"])}, not an array')
    messages = []
    for number, message in enumerate(entry["conversations"]):
        try:
            messages.append(wire.message(wire.ROLES[message["from"]], message["value"]))
        except (KeyError, TypeError, AttributeError):
            messages.append(_unusual_message(number, message))
    return entry["id"], messages


def _unusual_message(number: int, message: Any) -> bytes:
    """A message whose role is written in another case; anything else is refused."""
    if not isinstance(message, dict):
        raise _EntryError(f"message {number} is {_kind(message)}, not an object")
    for key in ("from", "value"):
        if key not in message:
            raise _EntryError(f'message {number} lacks "{key}"')
        if not isinstance(message[key], str):
            raise _EntryError(f'"{key}" of message {number} is {_kind(message[key])}, not a string')
    role = wire.role(message["from"])
    if role is None:
        known = ", ".join(wire.ROLES)
        raise _EntryError(f"message {number} has the unknown role {_short(message['from'])} (known: {known})")
    return wire.message(role, message["value"])


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _short(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:60] + "…")


def _place(number: int, entry: Any) -> str:
    entry_id = entry.get("id") if isinstance(entry, dict) else None
    return f"entry {number} (id {_short(entry_id)})" if isinstance(entry_id, str) else f"entry {number} (without id)"


# Bytes to entries


def _read_blocks(file: BinaryIO, progress: Callable[[int], object], block_size: int) -> Iterator[list[Any]]:
    """Yield the entries of the array in lists, a list a block.

    A block ends where an entry seems to begin (`},` white space `{"id"`). Where there is no such place, or what
    stands before it turns out to be no whole entries, the block grows, at the end to the whole file.
    """

    def read(size: int) -> bytes:
        data = file.read(size)
        progress(len(data))
        return data

    done = 0  # Entries yielded so far,
    last: Any = None  # and the last of them.
    pending = b""
    while not pending:
        data = read(block_size)
        if not data:
            raise DatasetError("is empty")
        pending = data.lstrip(WHITESPACE)
    if not pending.startswith(b"["):
        while data := read(len(pending)):
            pending += data
        _refuse_other_than_array(pending)
    pending = pending[1:]
    size = block_size
    while data := read(size):
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


def _entry_boundary(block: bytes) -> int:
    """The position of the last comma that seems to stand between two entries, 0 if there is none."""
    found = len(block)
    while (found := block.rfind(b'"id"', 0, found)) > 0:
        position = found
        for expected in b"{,}":
            position -= 1
            while position > 0 and block[position] in WHITESPACE:
                position -= 1
            if position < 0 or block[position] != expected:
                break
            if expected == COMMA:
                comma = position
        else:
            return comma
    return 0


def _refuse_other_than_array(text: bytes) -> NoReturn:
    if text.startswith(b"\xef\xbb\xbf"):
        raise DatasetError("begins with a byte order mark: save it as UTF-8 without one")
    try:
        value = ujson.loads(text.decode())
    except UnicodeDecodeError:
        raise DatasetError("is not UTF-8") from None
    except ValueError as error:
        raise DatasetError(f"is not JSON: {error}") from None
    raise DatasetError(f"holds {_kind(value)}, not an array of conversations")


def _refuse_syntax(rest: bytes, reason: str, number: int, last: Any) -> NoReturn:
    """Find where the rest of the array stops being JSON, and name the last good entry.

    ujson does not say where it failed, so the entries are read once more, one at a time.
    """
    try:
        text = rest.decode(errors="surrogatepass")
        at_end = "is cut off {after}: fetch it again"
    except UnicodeDecodeError as error:
        text = rest[: error.start].decode(errors="surrogatepass")
        at_end = "is cut off {after}: fetch it again"
        if error.reason != "unexpected end of data":
            at_end = f"is not UTF-8 {{after}}: byte 0x{rest[error.start]:02x}"
    decoder = json.JSONDecoder(strict=False)
    position = 0
    try:
        while True:
            start = _skip(text, position)
            entry, position = decoder.raw_decode(text, start)
            ujson.loads(text[start:position].encode(errors="surrogatepass"))
            last, number = entry, number + 1
            position = _skip(text, position)
            if text[position : position + 1] != ",":
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
    after = f"after {_place(number - 1, last)}" if number else "in its first entry"
    if position >= len(text):
        raise DatasetError(at_end.format(after=after))
    raise DatasetError(f"is not JSON {after}: {reason}")


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position

"""Following the messages of a request's body along the recordings, in the spellings that programs commonly use.

Four are known: compact JSON, or JSON with a space after each comma and colon; in each the role or the content first.

    {"messages":[{"role":"user","content":"Hi"}]}         OpenAI's SDKs, JSON.stringify: this is the wire form
    {"messages": [{"role": "user", "content": "Hi"}]}     Python's json.dumps, which also writes é as \\u00e9
    {"messages":[{"content":"Hi","role":"user"}]}         LangChain
    {"messages": [{"content": "Hi", "role": "user"}]}

The wire form is compared with the recordings as it stands there. In the others, what stands before a message's text,
the text and what stands behind it are compared one after the other, in place too. Only a text that is spelled neither
as recorded nor as json.dumps does it, or that stands where recordings part, is cut out. A message with other keys, such
as one that calls tools, is cut out as a whole and read: clients have too many spellings of these.

Rules that hold here:

- What is followed is known to be JSON and to say what is recorded: it is made of fixed bytes, and of roles, texts and
  messages that are the recorded bytes, or the same as `json.dumps` writes it, or that `ujson.loads` decodes to what is
  recorded.
- What is not followed is not judged. The walk ends before the first message that is not recorded, that can't be cut out
  or is no JSON at all, and leaves the rest of the body as it is. Of tools' messages in a row it follows all or none.
- In valid JSON a quote inside a string is escaped, so that `"}, {"role": "` and the like can't occur in a text. What
  looks like the end of the array, `"}]`, can: then the walk ends earlier than it might.
"""

import json
import re
from functools import lru_cache
from typing import NamedTuple

import ujson

from mockchat.core import wire
from mockchat.core.calls import Pairing
from mockchat.core.index import ResponseIndex
from mockchat.core.message import Message, answer_in_wire_form, read

_KEY = b'"messages":'
_ROLES = frozenset(map(str.encode, wire.API_ROLES))


class Walk(NamedTuple):
    """How far a request's messages are recorded, and what is left of its body without these.

    `prefix` is the last recorded prefix. The messages that lead to it are those of `in_place`, joined as in the wire
    form of an array, but without its beginning and end, and then those of `in_order`: in wire form, in the order in
    which they are compared. `read` has the last of these as they stand in the request: those from the first call or
    tool's message on. `before` is the body up to the key `messages`; `rest` is what would stand behind that key without
    them: an array of the other messages, if any, and all that follows it.
    """

    prefix: int
    in_place: bytes | memoryview
    read: list[Message]
    in_order: list[bytes]
    before: bytes
    rest: bytes

    def messages(self) -> list[bytes]:
        """The messages that are recorded, each in wire form."""
        return [*(bytes(self.in_place).split(wire.BETWEEN) if self.in_place else ()), *self.in_order]


class _Spelling:
    """The bytes that stand around roles and texts; `space` is what follows each comma and colon."""

    def __init__(self, space: bytes, *, role_first: bool) -> None:
        comma, colon = b"," + space, b":" + space
        role, content = b'"role"' + colon + b'"', b'"content"' + colon
        self.role_first = role_first
        self.beginning = b"{" + (role if role_first else content)
        self.middle = b'"' + comma + (content if role_first else role)  # From the quote that ends what comes first.
        self.opening = space + b"[" + self.beginning
        self.between = b"}" + comma + b"{"
        # What stands before and behind the text of a message, without its beginning and the brace at its end.
        self._around: dict[bytes, tuple[bytes, bytes]] = {}
        for name in map(str.encode, wire.API_ROLES):
            self._around[name] = (name + self.middle, b"") if role_first else (b"", self.middle[1:] + name + b'"')

    def end_of(self, message: bytes, body: bytes, position: int) -> int:
        """The position of the last brace of a message in wire form; -1 where the body does not seem to have it.

        `position` is where it should go on behind its beginning. Its text may be spelled as in wire form or, where that
        has other than ASCII characters, as `json.dumps` does.
        """
        role, text = wire.parts(message)
        before, behind = self._around[role]
        if not body.startswith(before, position):
            return -1
        position += len(before)
        if not body.startswith(text, position):
            # What can't fit is not encoded: a request should never cost more than its own size.
            if text.isascii() or len(text) > len(body) - position:
                return -1
            text = json.dumps(ujson.loads(text)).encode()
            if not body.startswith(text, position):
                return -1
        position += len(text)
        return position + len(behind) if body.startswith(behind, position) else -1

    def cut(self, body: bytes, position: int) -> tuple[bytes, int] | None:
        """The message that goes on at a position, behind its beginning: in wire form, and where its last brace is.

        None where it is none. What is no message may also give bytes that are none, and so are recorded nowhere.
        """
        if self.role_first:
            end = body.find(b'"' + self.between + self.beginning[1:], position)
            if end < 0:
                end = body.find(b'"}]', position)
            role, _, text = body[position : end + 1].partition(self.middle)
        else:
            text_end = body.find(self.middle, position)
            role_start = text_end + len(self.middle)
            end = body.find(b'"', role_start)
            role, text = body[role_start:end], body[position : text_end + 1]
        if b"\\u" in text:
            try:
                decoded = ujson.loads(text)
            except ValueError:
                return None
            if not isinstance(decoded, str):
                return None
            text = wire.text(decoded)
        return (wire.from_parts(role, text), end + 1) if role and text else None


_WIRE_FORM = _Spelling(b"", role_first=True)
_SPELLINGS = (
    _WIRE_FORM,
    _Spelling(b" ", role_first=True),
    _Spelling(b"", role_first=False),
    _Spelling(b" ", role_first=False),
)


def walk(body: bytes, index: ResponseIndex) -> Walk | None:
    """Follow the messages in a request's body as far as they are recorded; None where their spelling is not known."""
    key = body.find(_KEY)
    if key < 0:
        return None
    for spelling in _SPELLINGS:
        if body.startswith(spelling.opening, key + len(_KEY)):
            break
    else:
        return None
    start = position = key + len(_KEY) + len(spelling.opening)
    prefix, to_the_end = 0, False
    in_place: bytes | memoryview = b""
    if spelling is _WIRE_FORM:
        prefix, position, to_the_end = index.walk(body, start)
        if prefix:
            in_place = memoryview(body)[start : position - len(wire.CLOSING if to_the_end else wire.BETWEEN)]
    parts = _Parts(body, position - len(spelling.beginning), spelling, index, prefix)
    if not to_the_end:  # Of the wire form, too: it may only have escapes where that has none.
        to_the_end = parts.follow()
        position = parts.start
    rest = b"[]" if to_the_end else b"["
    return Walk(parts.prefix, in_place, parts.read, parts.in_order, body[:key].rstrip(b" "), rest + body[position:])


class _Parts:
    """A walk from message to message, from a prefix on; `start` is where the next one begins in the body."""

    def __init__(self, body: bytes, start: int, spelling: _Spelling, index: ResponseIndex, prefix: int) -> None:
        self.start = start
        self.prefix = prefix
        self.read: list[Message] = []
        self.in_order: list[bytes] = []
        self._body = body
        self._spelling = spelling
        self._index = index
        self._pairing: Pairing | None = None  # There is something to pair.
        self._is_missed = False  # The next message is a text that is not recorded there.

    def follow(self) -> bool:
        """Go as far as the messages are recorded. Where that is to the array's end, `start` is behind it."""
        while True:
            if self._follow_plain():
                return True
            if self._is_missed or not self._follow_any():
                return False
            if self._body.startswith(b"]", self.start):
                self.start += 1
                return True

    def _follow_plain(self) -> bool:
        """Follow messages that are role and text, in the spelling of the first one; to the end as `follow` does."""
        body, spelling, index, pairing = self._body, self._spelling, self._index, self._pairing
        beginning, between = spelling.beginning, spelling.between
        start, prefix = self.start, self.prefix
        at_the_end = False
        while not at_the_end and body.startswith(beginning, start):
            position = start + len(beginning)
            if pairing is not None and body.startswith(wire.TOOL, position):
                break
            message = index.first_message(prefix)
            end = spelling.end_of(message, body, position) if message else -1
            following = prefix + 1
            if end < 0:
                cut = spelling.cut(body, position)
                if cut is None:
                    break
                message, end = cut
                following = index.step(prefix, message)
                if following < 0:
                    self._is_missed = self._next(end) >= 0 and _is_plain(message)
                    break
            if body.startswith(between, end):
                next_start = end + len(between) - 1
            elif body.startswith(wire.CLOSING, end):
                next_start, at_the_end = end + len(wire.CLOSING), True
            else:
                break
            if pairing is not None:
                if message.startswith(wire.TOOL):  # Its content comes first.
                    at_the_end = False
                    break
                pairing.call(())
                self.read.append(Message(message))
            self.in_order.append(message)
            start, prefix = next_start, following
        self.start, self.prefix = start, prefix
        return at_the_end

    def _follow_any(self) -> bool:
        """Follow one message in any spelling, or all tools' messages that stand in a row."""
        found = self._read(self.start)
        if found is None:
            return False
        row, end = [found[0]], found[1]
        while _is_tools(row[0]) and not self._body.startswith(wire.CLOSING, end):
            found = self._read(self._next(end))
            if found is None:  # It may belong to the row.
                return False
            if not _is_tools(found[0]):
                break
            row.append(found[0])
            end = found[1]
        in_order = self._in_order(row)
        prefix, known = self._index.find(in_order, self.prefix)
        if known < len(row):
            return False
        self.prefix, self.start = prefix, self._next(end)
        self.read += row
        self.in_order += in_order
        return True

    def _next(self, end: int) -> int:
        """Where the message begins that follows one whose last brace is at `end`, or the bracket at the array's end.

        -1 if neither does.
        """
        if self._body.startswith(self._spelling.between, end):
            return end + len(self._spelling.between) - 1
        return end + 1 if self._body.startswith(wire.CLOSING, end) else -1

    def _in_order(self, row: list[Message]) -> list[bytes]:
        """One message, or tools' messages in a row, in wire form and in the order in which they are compared."""
        if self._pairing is None:
            self._pairing = Pairing()
        if not _is_tools(row[0]):
            self._pairing.call(row[0].call_ids)
            return [row[0].wire]
        found = self._pairing.answer([message.answers for message in row])
        return [answer_in_wire_form(row[each.number], each) for each in found]

    def _read(self, start: int) -> tuple[Message, int] | None:
        """The message that begins at a position, and where its last brace is; None where it can't be cut out."""
        boundary = _BETWEEN_ANY.search(self._body, start)
        end = boundary.start() if boundary else self._body.find(b'"}]', start) + 1
        if self._next(end) < 0:
            return None
        spelled = self._body[start : end + 1]
        if (tools := _TOOLS.match(spelled)) and _is_plain(wire.from_parts(b"tool", text := spelled[tools.end() : -1])):
            return Message(wire.from_parts(b"tool", text), answers=tools[1].decode()), end
        read = (_read if len(spelled) > _CACHED_SIZE else _known)(spelled)
        return (read, end) if read else None


_BETWEEN_ANY = re.compile(rb'\}, ?\{"(?:role|content|tool_call_id|refusal|name)"')
# A tool's message in the spelling that most clients have, up to its text: it may be long, and need not be decoded.
_TOOLS = re.compile(rb'\{"role": ?"tool", ?"tool_call_id": ?"([\w.:-]+)", ?"content": ?')


def _is_tools(message: Message) -> bool:
    return message.wire.startswith(wire.TOOL)


def _is_plain(cut: bytes) -> bool:
    """Whether what was cut out is a message in wire form, so that no other spelling of it could be recorded."""
    role, text = wire.parts(cut)
    quotes = text.count(b'"') - text.count(b'\\"')
    return role in _ROLES and text.startswith(b'"') and quotes == 2 and b"\\/" not in text and b"\\u" not in text


def _read(spelled: bytes) -> Message | None:
    """The message that is spelled so; None where it is none, or only a part of one."""
    try:
        return read(ujson.loads(spelled))
    except ValueError:
        return None


_known = lru_cache(maxsize=8192)(_read)  # A client sends a message again with each one that follows.
_CACHED_SIZE = 1024  # bytes: of a message that is remembered as it was read; of all together, at most some 40 MB

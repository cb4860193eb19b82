"""Following the messages of a request's body along the recordings, in the spellings that programs commonly use.

Four are known: compact JSON, or JSON with a space after each comma and colon; in each the role or the content first.

    {"messages":[{"role":"user","content":"Hi"}]}         OpenAI's SDKs, JSON.stringify: this is the wire form
    {"messages": [{"role": "user", "content": "Hi"}]}     Python's json.dumps, which also writes é as \\u00e9
    {"messages":[{"content":"Hi","role":"user"}]}         LangChain
    {"messages": [{"content": "Hi", "role": "user"}]}

The wire form is compared with the recordings as it stands there. In the others, what stands before a message's text,
the text and what stands behind it are compared one after the other, in place too. Only a text that is spelled neither
as recorded nor as json.dumps does it, or that stands where recordings part, is cut out.

Rules that hold here:

- What is followed is known to be JSON and to say what is recorded: it is made of fixed bytes, and of roles and texts
  that are the recorded bytes, or the same as `json.dumps` writes it, or that `ujson.loads` decodes to what is recorded.
- What is not followed is not judged. The walk ends before the first message that is not recorded, unusual in any way
  or no JSON at all, and leaves the rest of the body as it is.
- In valid JSON a quote inside a string is escaped, so that `"}, {"role": "` and the like can't occur in a text. What
  looks like the end of the array, `"}]`, can: then the walk ends earlier than it might.
"""

import json
from typing import NamedTuple

import ujson

from mockchat.core import wire
from mockchat.core.index import ResponseIndex

_KEY = b'"messages":'


class Walk(NamedTuple):
    """How far a request's messages are recorded, and what is left of its body without these.

    `prefix` is the last recorded prefix, and `history` the messages that lead to it, joined as in the wire form of an
    array, but without the array's beginning and end. `before` is the body up to the key `messages`; `rest` is what
    would stand behind that key without the history: an array of the other messages, if any, and all that follows it.
    """

    prefix: int
    history: bytes | memoryview
    before: bytes
    rest: bytes

    def messages(self) -> list[bytes]:
        """The messages of the history, each in wire form."""
        return bytes(self.history).split(wire.BETWEEN) if self.history else []


class _Spelling:
    """The bytes that stand around roles and texts; `space` is what follows each comma and colon."""

    def __init__(self, space: bytes, *, role_first: bool) -> None:
        comma, colon = b"," + space, b":" + space
        role, content = b'"role"' + colon + b'"', b'"content"' + colon
        self.role_first = role_first
        self.beginning = b"{" + (role if role_first else content)
        self.middle = b'"' + comma + (content if role_first else role)  # From the quote that ends what comes first.
        self.opening = space + b"[" + self.beginning
        self.between = b"}" + comma + self.beginning
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
            end = body.find(b'"' + self.between, position)
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
    history: bytes | memoryview = b""
    if spelling is _WIRE_FORM:
        prefix, position, to_the_end = index.walk(body, start)
        if prefix:
            history = memoryview(body)[start : position - len(wire.CLOSING if to_the_end else wire.BETWEEN)]
    if not to_the_end:  # Of the wire form, too: it may only have escapes where that has none.
        prefix, position, to_the_end, others = _walk_in_parts(body, position, spelling, index, prefix)
        if others:
            history = wire.BETWEEN.join([history, *others] if history else others)
    rest = b"[]" if to_the_end else b"[" + spelling.beginning
    return Walk(prefix, history, body[:key].rstrip(b" "), rest + body[position:])


def _walk_in_parts(
    body: bytes, position: int, spelling: _Spelling, index: ResponseIndex, prefix: int
) -> tuple[int, int, bool, list[bytes]]:
    """Follow messages from a prefix on; the first goes on at a position behind its beginning.

    Returns what `ResponseIndex.walk` does, and the messages.
    """
    messages: list[bytes] = []
    while True:
        message = index.first_message(prefix)
        end = spelling.end_of(message, body, position) if message else -1
        following = prefix + 1
        if end < 0:
            cut = spelling.cut(body, position)
            if cut is None:
                return prefix, position, False, messages
            message, end = cut
            following = index.step(prefix, message)
        if following >= 0 and body.startswith(spelling.between, end):
            messages.append(message)
            prefix, position = following, end + len(spelling.between)
        elif following >= 0 and body.startswith(wire.CLOSING, end):
            messages.append(message)
            return following, end + len(wire.CLOSING), True, messages
        else:
            return prefix, position, False, messages

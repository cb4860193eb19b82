"""The wire form: messages as the bytes in which clients send them.

A message is the part between `{"role":"` and `}` of compact JSON, role first, non-ASCII text unescaped:
`user","content":"Hello"`. OpenAI's Python SDK, `JSON.stringify` and `orjson.dumps` write exactly these bytes. A
recording, or a history, is the part between `[{"role":"` and `]`:

    user","content":"Hello"},{"role":"assistant","content":"Hi"}

Rules that hold here:

- JSON escapes a quote inside a string. So `},{"role":"` occurs in no text, and always separates messages.
- A text has one wire form. A lone surrogate is the escape that `JSON.stringify` writes (`\\ud800`); a pair of them is
  the character that they encode.
- What a message says beside its text (see `core/message.py`) follows a zero byte, as JSON in a JSON string. So it has
  no separator in it, and equals no part of a request: JSON has no zero byte.
"""

import json
import math
import re
from collections.abc import Iterable
from typing import Any

import orjson
import ujson

OPENING = b'[{"role":"'
BETWEEN = b'},{"role":"'
NEXT = BETWEEN[1:]  # Between a history and the message that follows it.
CLOSING = b"]"

ASSISTANT = b'assistant"'
TOOL = b'tool"'

API_ROLES = ("user", "assistant", "system", "function", "tool")

MOST_VALUES = 1_000_000  # values, of up to 250 bytes each once they are parsed
_MOST_LEVELS = 250  # orjson's limit is 254.
_LONG = 1024 * 1024  # bytes of JSON: to walk more in Python would hold up other clients

_BEFORE_TEXT = b'","content":'
_BEFORE_MORE = b"\0"


def loads(data: bytes) -> Any:
    """Parse JSON, or else what ujson accepts: lone surrogates, NaN, control characters. Raises `ValueError`."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return ujson.loads(data)


def parse(data: bytes | str) -> Any:
    """Parse JSON strictly by https://www.rfc-editor.org/rfc/rfc8259. Raises `ValueError`."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:  # It refuses lone surrogates, which are JSON.
        pass
    try:
        return _DECODER.decode(data if isinstance(data, str) else data.decode())
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def json_of(value: Any, sort_keys: bool = False) -> bytes:
    """A value as compact JSON; null for NaN and infinity. Raises `ValueError` if it is nested too deeply."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort_keys else None)
    except TypeError:  # Lone surrogates, integers beyond 64 bits, or depth.
        plain = _plain(value, _MOST_LEVELS)
    encoded = json.dumps(plain, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys)
    joined = encoded.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return joined.encode("utf-8", "backslashreplace")


text = json_of  # A text as a JSON string, with its quotes.


def canonical(value_as_json: str) -> bytes:
    """The same JSON value: compact, keys sorted, whole numbers without a fraction; integers exact up to 64 bits.

    Raises `ValueError` if it is not JSON, has a number beyond the range of doubles, more than about 250 levels, or more
    than a megabyte.
    """
    if len(value_as_json) > _LONG:
        raise ValueError(f"has more than {_LONG:,} bytes")
    return canonical_of(parse(value_as_json))


def canonical_of(value: Any) -> bytes:
    """A parsed value in canonical form; above a megabyte, numbers stay as spelled. Raises `ValueError` if too deep."""
    try:
        spelled = json_of(value, sort_keys=True)
        is_exact = len(spelled) > _LONG or not _FRACTION.search(spelled)
        return spelled if is_exact else json_of(_plain(value, _MOST_LEVELS), sort_keys=True)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def has_too_many_values(data: bytes) -> bool:
    """True if JSON has more than `MOST_VALUES` opening brackets, opening braces and commas, in texts or not."""
    return len(data) > MOST_VALUES and sum(map(data.count, (b"[", b"{", b","))) > MOST_VALUES


def _plain(value: Any, levels: int) -> Any:
    """A value with integers for whole numbers, and null for NaN and infinity."""
    if not levels:
        raise ValueError("is nested too deeply")
    if isinstance(value, dict):
        return {key: _plain(each, levels - 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, levels - 1) for each in value]
    if not isinstance(value, float):
        return value
    if value.is_integer() and -(2**63) <= value < 2**64:  # As orjson reads integers: others are doubles.
        return int(value)
    return value if math.isfinite(value) else None


def _double(spelled: str) -> float:
    number = float(spelled)
    if not math.isfinite(number):
        raise ValueError(f"{spelled[:20]} is no finite number")
    return number


def _integer(spelled: str) -> float:
    exact = int(spelled)
    return exact if -(2**63) <= exact < 2**64 else _double(spelled)  # As orjson reads it.


_DECODER = json.JSONDecoder(parse_float=_double, parse_int=_integer, parse_constant=_double)
_FRACTION = re.compile(rb"[0-9][.e]")  # Perhaps a number that is not spelled as an integer.


def message(role: str, content: str) -> bytes:
    """The wire form of a message; `role` is one of the API's names."""
    return role.encode() + _BEFORE_TEXT + text(content)


def with_more(message: bytes, more: bytes) -> bytes:
    return message + _BEFORE_MORE + text(more.decode())


def is_plain(message: bytes) -> bool:
    """True if a message, or each of several, has nothing but its text."""
    return _BEFORE_MORE not in message


def more_of(message: bytes) -> dict[str, Any]:
    """What a message says beside its text."""
    more: dict[str, Any] = {}
    for each in message.split(_BEFORE_MORE)[1:]:
        more |= loads(loads(each).encode())
    return more


def without_more(message: bytes) -> bytes:
    return message.partition(_BEFORE_MORE)[0]


def is_assistant(message: bytes) -> bool:
    return message.startswith(ASSISTANT)


def role_of(message: bytes) -> str:
    return message[: message.index(b'"')].decode()


def with_role(message: bytes, role: str) -> bytes:
    return role.encode() + message[message.index(b'"') :]


def with_text(message: bytes, content: str) -> bytes:
    before, _, _ = message.partition(b":")
    return b"%b:%b%b" % (before, text(content), message[len(without_more(message)) :])


def text_of(message: bytes) -> bytes:
    """The content of a message, as a JSON string literal."""
    return without_more(message[message.index(b":") + 1 :])


def content_of(message: bytes) -> str:
    content: str = loads(text_of(message))
    return content


def first(joined: bytes, start: int = 0) -> bytes:
    """The message that starts at a position of a recording or a history."""
    return joined[start : joined.find(BETWEEN, start)]  # Where it is the last one, -1 leaves out the last brace.


def next_start(history: bytes) -> int:
    """The position of the next message after a history."""
    return len(history) + len(NEXT) if history else 0


def join(messages: Iterable[bytes]) -> bytes:
    joined = BETWEEN.join(messages)
    return joined + b"}" if joined else b""


def split(joined: bytes) -> list[bytes]:
    return joined[:-1].split(BETWEEN) if joined else []


def count(joined: bytes) -> int:
    return joined.count(BETWEEN) + 1 if joined else 0


def array(joined: bytes) -> bytes:
    return b"%b%b%b" % (OPENING, joined, CLOSING) if joined else b"[]"


def array_size(joined: bytes) -> int:
    return len(OPENING) + len(joined) + len(CLOSING) if joined else len(b"[]")

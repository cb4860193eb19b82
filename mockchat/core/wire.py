"""The wire form: messages as the very bytes in which clients send them.

A message is what stands between `{"role":"` and `}` in compact JSON, role first, non-ASCII text unescaped:
`user","content":"Hello"`. OpenAI's Python SDK, `JSON.stringify` and `orjson.dumps` write exactly these bytes. A
recording, or a history, is what stands between `[{"role":"` and `]`: messages with `},{"role":"` between them, and the
last brace.

    user","content":"Hello"},{"role":"assistant","content":"Hi"}

Three rules make it work:

- In valid JSON a quote inside a string is escaped, so `},{"role":"` occurs in no text: it always separates messages.
- A text has one wire form. A lone surrogate, which UTF-8 can't express, is the escape that `JSON.stringify` writes
  (`\\ud800`); a pair of them is the character that they encode together.
- What a message says beside its text (see `core/message.py`) is JSON in a JSON string, behind a zero byte, which no
  JSON has: so it has no separator in it, and such a message equals no part of a request's body.

JSON is read and written by orjson, which follows RFC 8259 to the letter. ujson reads what orjson refuses and people
have: lone surrogates, NaN, control characters in texts. It is asked second, by `loads`.
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

MOST_CONTAINERS = 1_000_000  # Arrays and objects in a body: each takes up to 250 bytes of memory once it is read.

_BEFORE_TEXT = b'","content":'
_BEFORE_MORE = b"\0"


# JSON


def loads(data: bytes) -> Any:
    """The value of JSON, or of what `ujson.loads` takes for JSON. Raises `ValueError`."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return ujson.loads(data)


def parse(data: bytes) -> Any:
    """The value of JSON as https://www.rfc-editor.org/rfc/rfc8259 has it. Raises `ValueError` for all else."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:  # It also refuses lone surrogates, which are JSON.
        pass
    try:
        return _STRICT_DECODER.decode(data.decode())
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def text(value: str) -> bytes:
    """A text as a JSON string literal, its quotes included. Any `str` has one."""
    try:
        return orjson.dumps(value)
    except TypeError:  # It has lone surrogates.
        return json_of(value)


def json_of(value: Any) -> bytes:
    """Any value as compact JSON, its texts as `text` has them. Raises `ValueError` where it is nested too deeply."""
    try:
        return orjson.dumps(value)
    except TypeError:  # Lone surrogates, integers beyond 64 bits, or depth.
        return _encoded(value, _ENCODER)


def canonical(value_as_json: str) -> bytes:
    """The one spelling of all that is the same JSON value: compact, keys sorted, whole numbers without a fraction.

    Integers are exact up to 64 bits, all other numbers are doubles. Raises `ValueError` where it is not JSON, has a
    number that no double can express, is nested too deeply (254 levels), or has more than `MOST_CONTAINERS` arrays and
    objects.
    """
    if has_too_many_containers(data := value_as_json.encode(errors="surrogatepass")):
        raise ValueError(f"has more than {MOST_CONTAINERS:,} arrays and objects")
    if not _NOT_EXACT.search(data):
        try:
            return orjson.dumps(orjson.loads(data), option=orjson.OPT_SORT_KEYS)
        except (orjson.JSONDecodeError, TypeError):
            pass
    try:
        value = _DECODER.decode(value_as_json)
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (TypeError, RecursionError) as error:
        if "ecursion" in str(error):
            raise ValueError("is nested too deeply") from None
        return _encoded(value, _SORTING_ENCODER)


def has_too_many_containers(data: bytes) -> bool:
    """Whether JSON may have more than `MOST_CONTAINERS` arrays and objects; brackets in texts count too."""
    return len(data) > MOST_CONTAINERS and data.count(b"[") + data.count(b"{") > MOST_CONTAINERS


def _encoded(value: Any, encoder: json.JSONEncoder) -> bytes:
    try:
        encoded = encoder.encode(value)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    joined = encoded.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return joined.encode("utf-8", "backslashreplace")


_NOT_EXACT = re.compile(rb"[0-9](?:[.eE]|[0-9]{18})")  # What may be a number that orjson does not read as an integer.


def _number(spelled: str) -> float | int:
    number = float(spelled)
    if math.isinf(number):
        raise ValueError(f"{spelled[:20]} is more than a double can express")
    return int(number) if number.is_integer() else number


def _integer(spelled: str) -> float | int:
    exact = int(spelled)
    return exact if -(2**63) <= exact < 2**64 else _number(spelled)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_SORTING_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)
_STRICT_DECODER = json.JSONDecoder(parse_constant=_refuse)
_DECODER = json.JSONDecoder(parse_float=_number, parse_int=_integer, parse_constant=_refuse)


# A message


def message(role: str, content: str) -> bytes:
    """The wire form of a message; `role` is one of the API's names."""
    return from_parts(role.encode(), text(content))


def from_parts(role: bytes, content: bytes) -> bytes:
    """A message of this role, with this JSON as its content, and whatever follows that."""
    return role + _BEFORE_TEXT + content


def with_more(message: bytes, more: bytes) -> bytes:
    """A message that says more than `message`, as a JSON object."""
    return message + _BEFORE_MORE + text(more.decode())


def is_plain(message: bytes) -> bool:
    """Whether a text is all that a message, or each of several, says."""
    return _BEFORE_MORE not in message


def more_of(message: bytes) -> dict[str, Any]:
    """What a message says beside its text."""
    more: dict[str, Any] = {}
    for each in message.split(_BEFORE_MORE)[1:]:
        more |= loads(loads(each).encode())
    return more


def without_more(message: bytes) -> bytes:
    """The message that says the text alone."""
    return message.partition(_BEFORE_MORE)[0]


def is_assistant(message: bytes) -> bool:
    """Whether the model wrote the message."""
    return message.startswith(ASSISTANT)


def role_of(message: bytes) -> str:
    """The role of a message."""
    return message[: message.index(b'"')].decode()


def with_role(message: bytes, role: str) -> bytes:
    """The same message with another role."""
    return role.encode() + message[message.index(b'"') :]


def with_text(message: bytes, content: str) -> bytes:
    """The same message with another text."""
    before, _, _ = message.partition(b":")
    return b"%b:%b%b" % (before, text(content), message[len(without_more(message)) :])


def text_of(message: bytes) -> bytes:
    """The content of a message, as a JSON string literal."""
    return without_more(message[message.index(b":") + 1 :])


def content_of(message: bytes) -> str:
    """The content of a message, decoded."""
    content: str = loads(text_of(message))
    return content


# Several messages


def first(joined: bytes, start: int = 0) -> bytes:
    """The message that begins at a position of a recording or a history."""
    return joined[start : joined.find(BETWEEN, start)]  # Where it is the last one, -1 leaves out the last brace.


def append(history: bytes, message: bytes) -> bytes:
    """The history with a message behind it."""
    return b"%b%b}" % (before_next(history), message)


def before_next(history: bytes) -> bytes:
    """What stands before the message that follows a history."""
    return history + NEXT if history else history


def join(messages: Iterable[bytes]) -> bytes:
    """The messages as a recording or a history: what stands between `[{"role":"` and `]`; empty if there are none."""
    joined = BETWEEN.join(messages)
    return joined + b"}" if joined else b""


def split(joined: bytes) -> list[bytes]:
    """The messages of a recording or a history."""
    return joined[:-1].split(BETWEEN) if joined else []


def array(joined: bytes) -> bytes:
    """The JSON array of a history: what a client sends as `messages`."""
    return b"%b%b%b" % (OPENING, joined, CLOSING) if joined else b"[]"


def array_size(joined: bytes) -> int:
    """The size in bytes of that array."""
    return len(OPENING) + len(joined) + len(CLOSING) if joined else len(b"[]")

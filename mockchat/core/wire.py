"""The wire form: a message as the very bytes in which clients send it.

The wire form of a message is what stands between `{"role":"` and `}` in its compact JSON, role first,
non-ASCII text unescaped: `user","content":"Hello"`. OpenAI's Python SDK and `JSON.stringify` produce
exactly these bytes, so messages can be compared, cut and joined without being decoded.

How it is made and taken apart is only known here. Three rules make it work:

- In valid JSON a quote inside a string is always escaped, so `},{"role":"` can't occur in a text:
  wherever it stands, it is what separates two messages.
- Every text has exactly one wire form. A lone surrogate, which UTF-8 can't express, is written as
  the escape that `JSON.stringify` writes for it (`\\ud800`); a pair of them is written as the
  character that they mean together.
- What a message says beside its text (see `core/message.py`) follows the text as JSON objects, each
  behind a zero byte, which no JSON has. So a message in wire form ends with a quote if and only if
  text is all that it says: one that says more equals no part of a request's body.
"""

import json
import re
from collections.abc import Sequence
from itertools import islice
from typing import Any

import ujson

OPENING = b'[{"role":"'
BETWEEN = b'},{"role":"'
CLOSING = b"}]"

ASSISTANT = b'assistant"'
TOOL = b'tool"'

API_ROLES = ("user", "assistant", "system", "function", "tool")

_BETWEEN_PARTS = b'","content":'
_BEFORE_TEXT = {role: role.encode() + _BETWEEN_PARTS for role in API_ROLES}
_BEFORE_MORE = b"\0"
_RARE_CONTROLS = bytes(code for code in range(0x20) if code != ord("\n"))


def text(value: str) -> bytes:
    """A text as compact JSON: a UTF-8 string literal, its quotes included. Any `str` has one."""
    try:
        plain = value.encode()
    except UnicodeEncodeError:
        return json_of(value)
    # Nearly all texts have only backslashes, quotes and line ends to escape: to replace these takes half the time that
    # ujson.dumps takes.
    if len(plain.translate(None, _RARE_CONTROLS)) != len(plain):
        return ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False).encode()
    escaped = plain.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    return b'"%b"' % escaped


def json_of(value: Any) -> bytes:
    """Any value as compact JSON, its texts as `text` has them. Raises `ValueError` where it is nested too deeply."""
    try:
        return _bytes(_ENCODER.encode(value))
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def canonical(value_as_json: str) -> bytes:
    """The one spelling of all that is the same JSON value: compact, keys sorted, numbers as doubles.

    Raises `ValueError` where it is no JSON, has a number that no double can express, is nested too deeply, or has more
    than `MOST_VALUES` values.
    """
    if len(value_as_json) > MOST_VALUES and has_too_many_values(value_as_json.encode(errors="surrogatepass")):
        raise ValueError(f"has more than {MOST_VALUES:,} values")
    try:
        return _bytes(_SORTING_ENCODER.encode(_DECODER.decode(value_as_json)))
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def parse(data: bytes) -> Any:
    """The value of JSON as https://www.rfc-editor.org/rfc/rfc8259 has it. Raises `ValueError` for all else.

    So it refuses what `ujson.loads` and many clients take: NaN, `007`, bytes that are no UTF-8, and control characters
    in texts.
    """
    try:
        return _STRICT_DECODER.decode(data.decode())
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def has_too_many_values(data: bytes) -> bool:
    """Whether JSON has more than `MOST_VALUES` values, so that reading it takes many times its own size of memory."""
    if len(data) < 2 * MOST_VALUES:
        return False
    at_most = 0
    for start in range(0, len(data), _COUNTED_AT_ONCE):
        at_most += sum(data.count(mark, start, start + _COUNTED_AT_ONCE) for mark in (b",", b"[", b"{"))
        if at_most > MOST_VALUES:
            break
    else:
        return False
    # Texts have commas too: now only those count that stand outside.
    outside = (found for found in _STRING_OR_MARK.finditer(data) if not found[0].startswith(b'"'))
    return next(islice(outside, MOST_VALUES, None), None) is not None


MOST_VALUES = 250_000
_COUNTED_AT_ONCE = 1 << 20  # bytes
_STRING_OR_MARK = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[,\[{]', re.DOTALL)


def _number(spelled: str) -> float | int:
    number = float(spelled)
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def _bytes(encoded: str) -> bytes:
    try:
        return encoded.encode()
    except UnicodeEncodeError:
        joined = encoded.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return joined.encode("utf-8", "backslashreplace")


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_SORTING_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)
_STRICT_DECODER = json.JSONDecoder(parse_constant=_refuse)
_DECODER = json.JSONDecoder(parse_float=_number, parse_int=_number, parse_constant=_refuse)


def message(role: str, content: str) -> bytes:
    """The wire form of a message; `role` is one of the API's names."""
    return _BEFORE_TEXT[role] + text(content)


def with_more(message: bytes, more: bytes) -> bytes:
    """A message that says more than `message`, as a JSON object."""
    return message + _BEFORE_MORE + more


def is_plain(message: bytes) -> bool:
    """Whether a text is all that the message says."""
    return message.endswith(b'"')


def more_of(message: bytes) -> dict[str, Any]:
    """What a message says beside its text."""
    more: dict[str, Any] = {}
    for each in message.split(_BEFORE_MORE)[1:]:
        more |= json.loads(each)
    return more


def without_more(message: bytes) -> bytes:
    """The message that says the text alone."""
    return message.partition(_BEFORE_MORE)[0]


def parts(message: bytes) -> tuple[bytes, bytes]:
    """The role of a message in wire form, and its content as a JSON string; of one that says no more than that."""
    role, _, text = message.partition(_BETWEEN_PARTS)
    return role, text


def from_parts(role: bytes, text: bytes) -> bytes:
    """What `parts` took apart. That it is a message, the caller has to know."""
    return role + _BETWEEN_PARTS + text


def is_assistant(message: bytes) -> bool:
    """Whether the message is one that the model wrote."""
    return message.startswith(ASSISTANT)


def role_of(message: bytes) -> str:
    """The role of a message in wire form."""
    return message[: message.index(b'"')].decode()


def with_role(message: bytes, role: str) -> bytes:
    """The message that says the same and has another role."""
    return _BEFORE_TEXT[role] + message[message.index(b":") + 1 :]


def with_text(message: bytes, content: str) -> bytes:
    """The message that has another text, and says the same beside it."""
    before, _, _ = message.partition(b":")
    return b"%b:%b%b" % (before, text(content), message[len(without_more(message)) :])


def text_of(message: bytes) -> bytes:
    """The content of a message in wire form, still as a JSON string literal."""
    return without_more(message[message.index(b":") + 1 :])


def content_of(message: bytes) -> str:
    """The content of a message in wire form, decoded."""
    content: str = ujson.loads(text_of(message))
    return content


def join(messages: Sequence[bytes]) -> bytes:
    """The JSON array of the messages: what a client sends as `messages`."""
    return OPENING + BETWEEN.join(messages) + CLOSING if messages else b"[]"


def joined_size(messages: Sequence[bytes | memoryview]) -> int:
    """The size in bytes of the JSON array of the messages."""
    return sum(map(len, messages)) + len(BETWEEN) * len(messages) + 1 if messages else len(b"[]")

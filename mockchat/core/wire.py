"""The wire form: a message as the very bytes in which clients send it.

The wire form of a message is what stands between `{"role":"` and `}` in its compact JSON, role first,
non-ASCII text unescaped: `user","content":"Hello"`. OpenAI's Python SDK and `JSON.stringify` produce
exactly these bytes, so messages can be compared, cut and joined without being decoded.

How it is made and taken apart is only known here. Two rules make it work:

- In valid JSON a quote inside a string is always escaped, so `},{"role":"` can't occur in a text:
  wherever it stands, it is what separates two messages.
- Every text has exactly one wire form. A lone surrogate, which UTF-8 can't express, is written as
  the escape that `JSON.stringify` writes for it (`\\ud800`); a pair of them is written as the
  character that they mean together.
"""

import json
from collections.abc import Sequence
from typing import Any

import ujson

OPENING = b'[{"role":"'
BETWEEN = b'},{"role":"'
CLOSING = b"}]"

ASSISTANT = b'assistant"'

# The names that recordings and requests use, and the API's own name of each role.
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
    "function": "function",
    "tool": "tool",
    "function_call": "assistant",
    "observation": "tool",
}

API_ROLES = tuple(dict.fromkeys(ROLES.values()))

_BETWEEN_PARTS = b'","content":'
_BEFORE_TEXT = {role: role.encode() + _BETWEEN_PARTS for role in API_ROLES}
_RARE_CONTROLS = bytes(code for code in range(0x20) if code != ord("\n"))


def role(name: str) -> str | None:
    """The API's name of the role that a file or a client calls `name`, in any case; None if there is none."""
    return ROLES.get(name) or ROLES.get(name.lower())


def text(value: str) -> bytes:
    """A text as compact JSON: a UTF-8 string literal, its quotes included. Any `str` has one."""
    try:
        plain = value.encode()
    except UnicodeEncodeError:
        joined = value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return json.dumps(joined, ensure_ascii=False).encode("utf-8", "backslashreplace")
    # Nearly all texts have only backslashes, quotes and line ends to escape: to replace these takes half the time that
    # ujson.dumps takes.
    if len(plain.translate(None, _RARE_CONTROLS)) != len(plain):
        return ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False).encode()
    escaped = plain.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    return b'"%b"' % escaped


def message(role: str, content: str) -> bytes:
    """The wire form of a message; `role` is one of the API's names."""
    return _BEFORE_TEXT[role] + text(content)


def read_message(given: dict[str, Any], role_key: str = "role", text_key: str = "content") -> bytes:
    """The wire form of a message in any spelling that requests and recordings have.

    Its role may go by any of the names in `ROLES`, in any case. Its content is what `plain_text` takes, and may be
    missing where the assistant has said nothing (it may have called a tool instead). Raises `ValueError`, whose text
    begins with the place of what is wrong: `content[1].text must be a string`.
    """
    name = given.get(role_key)
    known_role = role(name) if isinstance(name, str) else None
    if known_role is None:
        names = ", ".join(dict.fromkeys([*API_ROLES, *ROLES]))
        but = f", not {name[:60]!r}" if isinstance(name, str) else ""
        raise ValueError(f"{role_key} must be one of {names}{but}")
    if text_key not in given and known_role != "assistant":
        raise ValueError(f"{text_key} is missing")
    return message(known_role, plain_text(given.get(text_key)))


def plain_text(content: Any) -> str:
    """The text of a `content` as the API takes it: a string, a list of text parts, or null for none.

    Raises `ValueError`, whose text begins with the place of what is wrong: `content[1].text must be a string`.
    """
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if not isinstance(content, list):
        raise ValueError("content must be a string, a list of text parts, or null")
    for number, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text":
            raise ValueError(f"content[{number}] must be a part of type text: only text is recorded")
        if not isinstance(part.get("text"), str):
            raise ValueError(f"content[{number}].text must be a string")
    return "".join(part["text"] for part in content)


def parts(message: bytes) -> tuple[bytes, bytes]:
    """The role of a message in wire form, and its content as a JSON string."""
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
    """The message with the same content that has another role."""
    return _BEFORE_TEXT[role] + text_of(message)


def text_of(message: bytes) -> bytes:
    """The content of a message in wire form, still as a JSON string literal."""
    return message[message.index(b":") + 1 :]


def content_of(message: bytes) -> str:
    """The content of a message in wire form, decoded."""
    content: str = ujson.loads(text_of(message))
    return content


def join(messages: list[bytes]) -> bytes:
    """The JSON array of the messages: what a client sends as `messages`."""
    return OPENING + BETWEEN.join(messages) + CLOSING if messages else b"[]"


def joined_size(messages: Sequence[bytes | memoryview]) -> int:
    """The size in bytes of the JSON array of the messages."""
    return sum(map(len, messages)) + len(BETWEEN) * len(messages) + 1 if messages else len(b"[]")

"""A message of a file, a client or a model → what is compared of it, and what is answered.

Follows https://platform.openai.com/docs/api-reference/chat/create. Rules that hold here:

- The wire form has what is compared: role, text, calls (see `core/calls.py`), and parts of the content that are no
  text. Refusal, reasoning, name, `index`, and how a client spells a message are not compared.
- Null, empty and missing content is the same, and so are a text and the text parts that it is made of.
- Other parts (images, audio, files) are compared whole as JSON values, in their order.
- The details have what is answered but not compared: ids, arguments to the letter, null or empty content, all else
  that a model's message has.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import orjson

from mockchat.core import calls, wire
from mockchat.core.calls import Call, Pairing

# The API's own roles, and further names that recordings and requests have for them.
_NAMES = {
    "user": ("human",),
    "assistant": ("gpt", "chatgpt", "bing", "bard", "function_call"),
    "system": ("developer",),
    "function": (),
    "tool": ("observation",),
}
ROLES = {name: role for role, names in _NAMES.items() for name in (role, *names)}
# Those whose messages say no more than a text, if they have no further keys.
_TEXT_ROLES = {name: role for name, role in ROLES.items() if role != "tool" and name != "function_call"}

# The texts that a model's message may have, in the order in which they are streamed.
TEXTS = ("reasoning_content", "reasoning", "content", "refusal")
# Keys of a model's message that are not copied into the answer: `read` handles them, or they describe the message.
_READ = frozenset(("role", "content", "tool_calls", "function_call", "refusal", "weight", "name", "index", "parsed"))
_NOTHING: tuple[Any, ...] = (None, "", [], {})


class Message(NamedTuple):
    """A message: its wire form, its content as it is spelled, its calls, and the id of the call that a tool answers."""

    wire: bytes
    content: Any = ""
    calls: Sequence[Call] = ()
    answers: str | None = None


class Details(NamedTuple):
    """Fields that are answered but not compared, as JSON; `sent` and `answered` lack `{"role":"` and `}`."""

    sent: bytes  # The message as clients send it in a history.
    answered: bytes = b""  # A reply as the model said it.
    finish_reason: bytes = b'"stop"'
    usage: bytes | None = None
    is_reply: bool = True  # False for an assistant message that only belongs to the history of others.
    logprobs: bytes | None = None
    model: bytes | None = None
    service_tier: bytes | None = None
    system_fingerprint: bytes | None = None
    request: bytes | None = None  # The parameters of the request: see `core/matching.py`.


NO_REFUSAL = b',"refusal":null'


def join_texts(given: list[Any], role_key: str = "role", text_key: str = "content") -> bytes | None:
    """The messages as a history in wire form, where each of them is a role, a text and nothing else; None elsewhere."""
    try:
        said = [
            {"role": _TEXT_ROLES[each[role_key]], "content": text}
            for each in given
            if len(each) == 2 and type(text := each[text_key]) is str
        ]
        if len(said) == len(given):
            return orjson.dumps(said)[len(wire.OPENING) : -len(wire.CLOSING)]
    except (KeyError, TypeError):  # TypeError: orjson's too, where a text has lone surrogates.
        pass
    return None


def read(given: dict[str, Any], role_key: str = "role", text_key: str = "content") -> Message:
    """A message in any spelling that requests and recordings have; its role is any name in `ROLES`, in any case.

    The content of an assistant or a tool may be missing. Raises `ValueError`, whose text begins with the place of what
    is wrong: `content[1].text must be a string`.
    """
    name = given.get(role_key)
    if not isinstance(name, str) or (role := ROLES.get(name.lower())) is None:
        but = f", not {name[:60]!r}" if isinstance(name, str) else ""
        raise ValueError(f"{role_key} must be one of {', '.join({**_NAMES, **ROLES})}{but}")
    if text_key not in given and role not in ("assistant", "tool"):
        raise ValueError(f"{text_key} is missing")
    content = given.get(text_key)
    called: Sequence[Call] = ()
    answers = None
    if role == "assistant":
        called = calls.read(given)
        if not called and name.lower() == "function_call" and isinstance(content, str):
            called = calls.read_text(content)
            content = None if called else content
    elif role == "tool":
        answers = given.get("tool_call_id")
        if not isinstance(answers, str | None):
            raise ValueError("tool_call_id must be a string")
    text, others = _read_content(content)
    if isinstance(content, list) and not others:
        content = text
    message = wire.message(role, text)
    if others:
        message = wire.with_more(message, b'{"parts":[%b]}' % b",".join(others))
    if called:
        message = wire.with_more(message, b'{"calls":[%b]}' % b",".join([call.normal() for call in called]))
    return Message(message, content, called, answers)


def _read_content(content: Any) -> tuple[str, list[bytes]]:
    """The text of a content; or, where it has other parts, no text and all parts as JSON, adjacent texts joined."""
    if content is None or isinstance(content, str):
        return content or "", []
    if not isinstance(content, list):
        raise ValueError("content must be a string, a list of parts, or null")
    texts: list[str] = []
    others: list[bytes] = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            if not isinstance(part.get("text"), str):
                raise ValueError(f"content[{number}].text must be a string")
            texts.append(part["text"])
        elif not isinstance(kind, str):
            raise ValueError(f"content[{number}] must be an object with a type: text, image_url, input_audio or file")
        elif kind != "refusal":
            try:
                other = wire.canonical_of(part)
            except ValueError as error:
                raise ValueError(f"content[{number}] {error}") from None
            others += [*_joined(texts), other]
            texts = []
    return ("", others + _joined(texts)) if others else ("".join(texts), [])


def _joined(texts: list[str]) -> list[bytes]:
    joined = "".join(texts)
    return [wire.text(joined)] if joined else []


def in_order(messages: Iterable[Message]) -> list[tuple[int, bytes, str | None]]:
    """The messages in the order in which they are compared: number, wire form, and the id of the call answered."""
    ordered: list[tuple[int, bytes, str | None]] = []
    pairing = Pairing()
    for are_answers, group in groupby(enumerate(messages), lambda each: each[1].wire.startswith(wire.TOOL)):
        if are_answers:
            row = list(group)
            for place, call_id, out_of_turn in pairing.answer([message.answers for _, message in row]):
                number, message = row[place]
                ordered.append((number, answering(message.wire, out_of_turn), call_id))
        else:
            for number, message in group:
                pairing.call([call.id for call in message.calls if call.type != calls.LEGACY])
                ordered.append((number, message.wire, None))
    return ordered


def answering(in_wire_form: bytes, call: int | None) -> bytes:
    """A tool's message that answers the call of this number; None for the next one, which need not be said."""
    return in_wire_form if call is None else wire.with_more(in_wire_form, b'{"answers":%d}' % call)


def sent(message: Message, answers: str | None = None) -> bytes:
    """The message as clients send it; `answers` is the id of the call that a tool's message answers."""
    return _spelled(message, {} if answers is None else {"tool_call_id": answers}, {})


def answered(message: Message, given: dict[str, Any]) -> bytes:
    """A model's message with all that it has: `given` is the object that it was read from."""
    others = {key: value for key, value in given.items() if key not in _READ and value not in _NOTHING}
    return _spelled(message, {"refusal": given.get("refusal") or None}, others)


def _spelled(message: Message, before_calls: dict[str, Any], others: dict[str, Any]) -> bytes:
    said = {"role": wire.role_of(message.wire), "content": message.content, **before_calls}
    for call in message.calls:
        if call.type == calls.LEGACY:
            said[calls.LEGACY] = call.as_object()
        else:
            said.setdefault("tool_calls", []).append(call.as_object())
    return spell(said | others)


def as_object(spelled: bytes) -> dict[str, Any]:
    """The API's object of `Details.sent`, of `Details.answered`, or of a plain message in wire form."""
    said: dict[str, Any] = wire.loads(b'{"role":"%b}' % spelled)
    return said


def spell(said: dict[str, Any]) -> bytes:
    """The reverse of `as_object`."""
    return wire.json_of(said)[len(b'{"role":"') : -1]

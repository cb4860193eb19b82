"""What a message says, from the object that a file, a client or a model has for it.

Follows https://platform.openai.com/docs/api-reference/chat/create. The same rules hold for all of these:

- What counts when messages are compared is in the wire form: role, text, calls (see `core/calls.py`), and parts of the
  content that are no text. Nothing else does: not how a client spells it, and no refusal, reasoning, name or `index`.
- Content that is null, empty or missing is the same, and so are a text and the text parts that it is made of.
- Other parts (images, audio, files) are compared whole as JSON values, in their order.
- What the wire form does not say, and a client or a model does, is in the details: ids, arguments to the letter, null
  or empty content, all else that a model's message has.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import orjson

from mockchat.core import calls, wire
from mockchat.core.calls import Call, Pairing

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
# Those whose messages say no more than a text, if they have no further keys.
TEXT_ROLES = {name: role for name, role in ROLES.items() if role != "tool" and name != "function_call"}

# The texts that a model's message may have, in the order in which they are streamed.
TEXTS = ("reasoning_content", "reasoning", "content", "refusal")
# What of a model's message is not answered as it stands there: it is read, or is about the message and no part of it.
_READ = frozenset(("role", "content", "tool_calls", "function_call", "refusal", "weight", "name", "index", "parsed"))
_NOTHING: tuple[Any, ...] = (None, "", [], {})


class Message(NamedTuple):
    """A message: in wire form; its content as it is said, a list of parts or null included; the calls that it makes.

    A tool's message has the id of the call that it answers, if it names one.
    """

    wire: bytes
    content: Any = ""
    calls: Sequence[Call] = ()
    answers: str | None = None


class Details(NamedTuple):
    """What the wire form of a message does not say.

    `sent` is the message as clients send it in a history, `answered` (of a reply) as the model said it, both without
    `{"role":"` and `}`. An assistant message that is no reply only belongs to the history of others. The rest is JSON
    from the answer, and the parameters of the request (see `core/matching.py`).
    """

    sent: bytes
    answered: bytes = b""
    finish_reason: bytes = b'"stop"'
    usage: bytes | None = None
    is_reply: bool = True
    logprobs: bytes | None = None
    model: bytes | None = None
    service_tier: bytes | None = None
    system_fingerprint: bytes | None = None
    request: bytes | None = None


NO_REFUSAL = b',"refusal":null'


def join_texts(given: list[Any], role_key: str = "role", text_key: str = "content") -> bytes | None:
    """The messages as a history in wire form, where each of them is a role, a text and nothing else; None elsewhere."""
    try:
        said = [
            {"role": TEXT_ROLES[each[role_key]], "content": text}
            for each in given
            if len(each) == 2 and type(text := each[text_key]) is str
        ]
        if len(said) == len(given):
            return orjson.dumps(said)[len(wire.OPENING) : -len(wire.CLOSING)]
    except (KeyError, TypeError):  # TypeError: orjson's too, where a text has lone surrogates.
        pass
    return None


def read(given: dict[str, Any], role_key: str = "role", text_key: str = "content") -> Message:
    """A message in any spelling that requests and recordings have.

    Its role may go by any of the names in `ROLES`, in any case. Its content may be missing where the assistant has said
    nothing (it may have called a tool instead) or a tool has answered nothing. Raises `ValueError`, whose text begins
    with the place of what is wrong: `content[1].text must be a string`.
    """
    name = given.get(role_key)
    if not isinstance(name, str) or (role := ROLES.get(name.lower())) is None:
        names = ", ".join(dict.fromkeys([*wire.API_ROLES, *ROLES]))
        but = f", not {name[:60]!r}" if isinstance(name, str) else ""
        raise ValueError(f"{role_key} must be one of {names}{but}")
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
    """The text of a content; or, where it has other parts, no text and all parts as JSON, what is text between joined.

    Raises `ValueError` as `read` does.
    """
    if isinstance(content, str):
        return content, []
    if content is None:
        return "", []
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
    """The messages of a history in the order in which they are compared, each in wire form behind its number.

    Behind that is the id of the call that a tool's message answers, if it answers any.
    """
    ordered: list[tuple[int, bytes, str | None]] = []
    pairing = Pairing()
    row: list[tuple[int, Message]] = []
    for number, message in enumerate(messages):
        if message.wire.startswith(wire.TOOL):
            row.append((number, message))
            continue
        if row:
            ordered += _ordered(row, pairing)
            row = []
        pairing.call([call.id for call in message.calls if call.type != calls.LEGACY])
        ordered.append((number, message.wire, None))
    return ordered + _ordered(row, pairing)


def _ordered(row: list[tuple[int, Message]], pairing: Pairing) -> list[tuple[int, bytes, str | None]]:
    ordered = []
    for place, call_id, out_of_turn in pairing.answer([message.answers for _, message in row]):
        number, message = row[place]
        ordered.append((number, answering(message.wire, out_of_turn), call_id))
    return ordered


def answering(in_wire_form: bytes, call: int | None) -> bytes:
    """A tool's message that answers the call of this number; None for the next one, which need not be said."""
    return in_wire_form if call is None else wire.with_more(in_wire_form, b'{"answers":%d}' % call)


def sent(message: Message, answers: str | None = None) -> bytes:
    """The message as clients send it; `answers` is the id of the call that a tool's message answers."""
    answering = {} if answers is None else {"tool_call_id": answers}
    return spell({"role": wire.role_of(message.wire), "content": message.content, **answering, **_called(message)})


def answered(message: Message, given: dict[str, Any]) -> bytes:
    """A model's message with all that it has: `given` is the object that it was read from."""
    others = {key: value for key, value in given.items() if key not in _READ and value not in _NOTHING}
    said = {"role": wire.role_of(message.wire), "content": message.content, "refusal": given.get("refusal") or None}
    return spell({**said, **_called(message), **others})


def _called(message: Message) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for call in message.calls:
        if call.type == calls.LEGACY:
            members[calls.LEGACY] = call.as_object()
        else:
            members.setdefault("tool_calls", []).append(call.as_object())
    return members


def as_object(spelled: bytes) -> dict[str, Any]:
    """A message as it is sent or answered, or a plain one in wire form, as the API's object."""
    said: dict[str, Any] = wire.loads(b'{"role":"%b}' % spelled)
    return said


def spell(said: dict[str, Any]) -> bytes:
    """The reverse of `as_object`."""
    return wire.json_of(said)[len(b'{"role":"') : -1]

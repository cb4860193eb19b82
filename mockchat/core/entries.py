"""One entry of a file of recordings → the conversation that it holds, in wire form.

An entry is a JSON object that has a list of messages under one of two keys:

- `{"id": "dcTB2RK_0", "conversations": [{"from": "human", "value": "…"}, …]}`, as ShareGPT and its kin have it;
- `{"messages": [{"role": "user", "content": "…"}, …]}`, as OpenAI's fine-tuning files have it:
  https://platform.openai.com/docs/guides/supervised-fine-tuning. The keys of `ENDING` beside it are about the last one.

In either, the `id` may be missing, a `system` prompt may stand beside the list, and other keys are ignored.
`core/message.py` reads a message. An assistant message with `weight` 0 is history, not a reply.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from mockchat.core import message, wire
from mockchat.core.calls import LEGACY
from mockchat.core.message import Details, Message
from mockchat.core.program import ProgramError

# The key of an entry's list, and those of a message in it: of the role and of the text.
FORMS = {"conversations": ("from", "value"), "messages": ("role", "content")}

# A message that has one of these may have no text.
_IN_PLACE_OF_TEXT = ("tool_calls", "function_call", "tool_call_id", "refusal", "audio")

# The type of what stands beside the list, by its name there and in the details.
ENDING = {
    "finish_reason": str,
    "usage": dict,
    "logprobs": dict,
    "model": str,
    "service_tier": str,
    "system_fingerprint": str,
    "request": dict,
}

NO_DETAILS: Mapping[int, Details] = {}  # One for all: most conversations are text.


class DatasetError(ProgramError):
    """Recordings can't be used; the text names the file, the place in it and what is wrong."""


class EntryError(Exception):
    """An entry can't be used. The text says what is wrong with it, but not which one it is."""


@dataclass(slots=True)
class Conversation:
    """A whole conversation: its id, its messages in wire form and, by their numbers, the details of some of them."""

    id: str
    recording: bytes
    details: Mapping[int, Details] = field(default_factory=lambda: NO_DETAILS)

    @property
    def messages(self) -> list[bytes]:
        return wire.split(self.recording)

    @property
    def replies(self) -> int:
        assistants = self.recording.startswith(wire.ASSISTANT) + self.recording.count(wire.BETWEEN + wire.ASSISTANT)
        return assistants - sum(not each.is_reply for each in self.details.values())

    def places(self) -> Iterator[tuple[int, int]]:
        """Each reply: its number among the messages, and where it begins in the recording."""
        start = 0
        for number, each in enumerate(self.messages):
            if wire.is_assistant(each) and is_reply(self.details, number):
                yield number, start
            start += len(each) + len(wire.BETWEEN)

    def history(self, number: int) -> list[bytes]:
        """The messages before one, as clients send them: each without `{"role":"` and `}`."""
        messages = self.messages[:number]
        for each, details in self.details.items():
            if each < number:
                messages[each] = details.sent
        return messages


def is_reply(details: Mapping[int, Details], number: int) -> bool:
    """True if the assistant message of this number is a reply, by the details of its conversation."""
    known = details.get(number)
    return known is None or known.is_reply


def conversation(entry: Any, name: str) -> Conversation:
    """The conversation of an entry that stands alone, called `name` if it has no id. Raises `DatasetError`."""
    try:
        return read(entry, name)[0]
    except EntryError as error:
        raise DatasetError(f"{name}: {error}") from None


def read(entry: Any, name: str) -> tuple[Conversation, int]:
    """The conversation of an entry, called `name` if it has no id, and the number of messages. Raises `EntryError`."""
    if not isinstance(entry, dict):
        raise EntryError(f"is {_kind(entry)}, not an object")
    present = [key for key in FORMS if key in entry]
    if len(present) != 1:
        raise EntryError('must have either "conversations" or "messages"')
    [list_key] = present
    entry_id, system, given = entry.get("id", name), entry.get("system"), entry[list_key]
    if isinstance(entry_id, bool) or not isinstance(entry_id, str | int):
        raise EntryError(f'"id" is {_kind(entry_id)}, not a string')
    if not isinstance(system, str | None):
        raise EntryError(f'"system" is {_kind(system)}, not a string')
    if not isinstance(given, list):
        raise EntryError(f'"{list_key}" is {_kind(given)}, not an array')
    role_key, text_key = FORMS[list_key]
    if system:
        given = [{role_key: "system", text_key: system}, *given]
    ending = _ending(entry) if list_key == "messages" else {}
    if not ending and (recording := message.join_texts(given, role_key, text_key)) is not None:
        return Conversation(str(entry_id), recording), len(given)
    said = [_said(each, number, list_key) for number, each in enumerate(given, -1 if system else 0)]
    ordered = message.in_order([each for each, _ in said])
    details: dict[int, Details] = {}
    for place, (at, in_wire_form, answers) in enumerate(ordered):
        is_last = place == len(ordered) - 1
        try:
            found = _details(*said[at], in_wire_form, answers, ending if is_last else {})
        except ValueError as error:
            raise EntryError(f"message {at - bool(system)} {error}") from None
        if found is not None:
            details[place] = found
    recording = wire.join([in_wire_form for _, in_wire_form, _ in ordered])
    return Conversation(str(entry_id), recording, details or NO_DETAILS), len(ordered)


def _said(given: Any, number: int, list_key: str) -> tuple[Message, dict[str, Any]]:
    """A message of an entry, and its object with only the keys that count."""
    if not isinstance(given, dict):
        raise EntryError(f"message {number} is {_kind(given)}, not an object")
    role_key, text_key = _keys_in(given, list_key)
    if text_key not in given and not any(key in given for key in _IN_PLACE_OF_TEXT):
        raise EntryError(f'message {number} lacks "{text_key}"')
    if text_key == "value" and not isinstance(given.get("value", ""), str):
        raise EntryError(f'"value" of message {number} is {_kind(given["value"])}, not a string')
    try:
        read = message.read(given, role_key, text_key)
    except ValueError as error:
        raise EntryError(f"message {number}: {error}") from None
    called = [call._replace(id=call.id or f"call_{number}_{place}") for place, call in enumerate(read.calls)]
    # Only in the API's form are further keys what the model said.
    return read._replace(calls=called), given if text_key == "content" else {"weight": given.get("weight")}


def _details(
    said: Message, given: dict[str, Any], in_wire_form: bytes, answers: str | None, ending: dict[str, Any]
) -> Details | None:
    """The details of a message; None if it is plain text."""
    sent = message.sent(said, answers or said.answers)
    if not wire.is_assistant(in_wire_form):
        return Details(sent) if sent != in_wire_form else None
    details = Details(sent, message.answered(said, given), is_reply=given.get("weight") != 0)
    if said.calls:
        reason = b'"function_call"' if said.calls[-1].type == LEGACY else b'"tool_calls"'
        details = details._replace(finish_reason=reason)
    details = details._replace(**ending)
    return None if details == Details(in_wire_form, in_wire_form + message.NO_REFUSAL) else details


def _ending(entry: dict[str, Any]) -> dict[str, Any]:
    """What stands beside the list about its last message, as JSON."""
    ending: dict[str, Any] = {}
    for key, kind in ENDING.items():
        value = entry.get(key)
        if value is not None:
            if not isinstance(value, kind):
                raise EntryError(f'"{key}" is {_kind(value)}, not {"a string" if kind is str else "an object"}')
            try:
                ending[key] = _one_of_equals(wire.canonical_of(value)) if key == "request" else wire.json_of(value)
            except ValueError as error:
                raise EntryError(f'"{key}" {error}') from None
    return ending


_one_of_equals = lru_cache(maxsize=64)(bytes)  # Tools are long, and the same in many requests.


def _keys_in(given: dict[str, Any], list_key: str) -> tuple[str, str]:
    """The keys of this message's role and text: of the list's form if it has them, for the others may be extra keys."""
    forms = [FORMS[list_key], *FORMS.values()]
    return max(forms, key=lambda keys: (keys[0] in given, all(key in given for key in keys)))


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")

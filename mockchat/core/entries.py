"""One entry of a file of recordings → the conversation that it holds, in wire form.

An entry is a JSON object that has a list of messages under one of two keys:

- `{"id": "dcTB2RK_0", "conversations": [{"from": "human", "value": "…"}, …]}`, as ShareGPT and its kin have it;
- `{"messages": [{"role": "user", "content": "…"}, …]}`, as OpenAI has it, in fine-tuning files for example:
  https://platform.openai.com/docs/guides/supervised-fine-tuning.

In either, the `id` may be missing, a `system` prompt may stand beside the list, and any other keys are ignored.
"""

from dataclasses import dataclass
from typing import Any

from mockchat.core import wire
from mockchat.core.program import ProgramError

# The key of an entry's list, and those of a message in it: of the role and of the text.
FORMS = {"conversations": ("from", "value"), "messages": ("role", "content")}


class DatasetError(ProgramError):
    """Recordings can't be used; the text names the file, the place in it and what is wrong."""


class EntryError(Exception):
    """An entry can't be used. The text says what is wrong with it, but not which one it is: its reader knows that."""


@dataclass(slots=True)
class Conversation:
    """A whole conversation: its id, and its messages in wire form."""

    id: str
    messages: list[bytes]


def conversation(entry: Any, name: str) -> Conversation:
    """The conversation of an entry that stands alone; it is called `name` where it has no id. Raises `DatasetError`."""
    try:
        entry_id, messages = read(entry)
    except EntryError as error:
        raise DatasetError(f"{name}: {error}") from None
    return Conversation(name if entry_id is None else entry_id, messages)


def read(entry: Any) -> tuple[str | None, list[bytes]]:
    """The id of an entry, if it has one, and its messages in wire form. Raises `EntryError`."""
    if not isinstance(entry, dict):
        raise EntryError(f"is {_kind(entry)}, not an object")
    present = [key for key in FORMS if key in entry]
    if len(present) != 1:
        raise EntryError('must have either "conversations" or "messages"')
    [list_key] = present
    entry_id = entry.get("id")
    if type(entry_id) is int:
        entry_id = str(entry_id)
    elif "id" in entry and not isinstance(entry_id, str):
        raise EntryError(f'"id" is {_kind(entry_id)}, not a string')
    system = entry.get("system")
    if not isinstance(system, str | None):
        raise EntryError(f'"system" is {_kind(system)}, not a string')
    if not isinstance(entry[list_key], list):
        raise EntryError(f'"{list_key}" is {_kind(entry[list_key])}, not an array')
    role_key, text_key = FORMS[list_key]
    messages = [wire.message("system", system)] if system else []
    for number, message in enumerate(entry[list_key]):
        try:
            messages.append(wire.message(wire.ROLES[message[role_key]], message[text_key]))
        except (KeyError, TypeError, AttributeError):
            messages.append(_unusual_message(number, message, list_key))
    return entry_id, messages


def _unusual_message(number: int, message: Any, list_key: str) -> bytes:
    """A message that has the keys of the other form, or anything but a common role and a string under its own."""
    if not isinstance(message, dict):
        raise EntryError(f"message {number} is {_kind(message)}, not an object")
    role_key, text_key = _keys_in(message, list_key)
    if role_key not in message:
        raise EntryError(f'message {number} lacks "from" or "role"')
    if text_key not in message:
        if not ("tool_calls" in message or "function_call" in message):
            raise EntryError(f'message {number} lacks "{text_key}"')
        message = message | {text_key: ""}  # Tools are called in place of saying anything.
    for key in (role_key, text_key):
        if key != "content" and not isinstance(message[key], str):
            raise EntryError(f'"{key}" of message {number} is {_kind(message[key])}, not a string')
    try:
        return wire.read_message(message, role_key, text_key)
    except ValueError as error:
        raise EntryError(f"message {number}: {error}") from None


def _keys_in(message: dict[str, Any], list_key: str) -> tuple[str, str]:
    """The keys under which this message has its role and its text.

    Both belong to one form: to that of the list if it can be, for in the other form's terms they may be any extra keys.
    """
    forms = sorted(FORMS.items(), key=lambda form: form[0] != list_key)
    for _, keys in forms:
        if all(key in message for key in keys):
            return keys
    return next((keys for _, keys in forms if keys[0] in message), forms[0][1])


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")

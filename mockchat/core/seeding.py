"""SEED_ERRORS: alter a few messages, which a replay must then report."""

import random
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from mockchat.core import calls, wire
from mockchat.core.entries import Conversation
from mockchat.core.message import Details, answering, as_object, read, spell

SHARE = 0.01  # Of all messages, how many are altered.
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def seed_errors(conversations: Sequence[Conversation], seed: str) -> int:
    """Alter 1 % of the messages in place, each by one character of its text or arguments. Returns their number.

    At least one user message and one assistant message are altered, if there are any. `seed` is the value of the
    environment variable `SEED_ERRORS`: any word; empty or `0` alters nothing. The same seed and conversations give the
    same alterations.
    """
    if seed in ("", "0"):
        return 0
    chance = random.Random(seed)
    roles = [wire.role_of(message) for conversation in conversations for message in conversation.messages]
    chosen = set(chance.sample(range(len(roles)), round(SHARE * len(roles))))
    for role in ("user", "assistant"):
        of_this_role = [place for place, role_there in enumerate(roles) if role_there == role]
        if of_this_role and chosen.isdisjoint(of_this_role):
            chosen.add(chance.choice(of_this_role))
    first = 0
    for conversation in conversations:
        messages = conversation.messages
        for place in sorted(chosen.intersection(range(first, first + len(messages)))):
            messages[place - first] = _alter(conversation, place - first, chance)
            conversation.recording = wire.join(messages)
        first += len(messages)
    return len(chosen)


def _alter(conversation: Conversation, number: int, chance: random.Random) -> bytes:
    """Alter the details of a message, if it has any; returns the altered message."""
    message, details = conversation.messages[number], conversation.details.get(number)
    if details is None:
        return wire.with_text(message, alter(wire.content_of(message), chance))
    altered, changed = _alter_detailed(message, details, chance)
    conversation.details = {**conversation.details, number: changed}
    return altered


def _alter_detailed(message: bytes, details: Details, chance: random.Random) -> tuple[bytes, Details]:
    """Alter the text of a message or, if it has none, the arguments of a call or the parts."""
    said, answered = as_object(details.sent), as_object(details.answered or details.sent)
    if isinstance(said["content"], list):
        said["content"] = answered["content"] = [*said["content"], {"type": "text", "text": chance.choice(LETTERS)}]
    elif said["content"] or "tool_calls" not in said:
        said["content"] = answered["content"] = alter(said["content"] or "", chance)
    else:
        said["tool_calls"] = answered["tool_calls"] = _alter_calls(said, chance)
    altered = answering(read(said).wire, wire.more_of(message).get("answers"))
    answered_now = spell(answered) if details.answered else b""
    return altered, details._replace(sent=spell(said), answered=answered_now)


def _alter_calls(said: dict[str, Any], chance: random.Random) -> Any:
    """The calls of a message with other arguments, which differ as JSON values."""
    while True:
        altered = deepcopy(said)
        call = chance.choice(altered["tool_calls"])
        called, key = call[call["type"]], calls.TEXT_KEYS[call["type"]]
        called[key] = alter(called[key], chance)
        if read(altered).wire != read(said).wire:
            return altered["tool_calls"]


def alter(text: str, chance: random.Random) -> str:
    """The text with one character inserted, dropped or replaced; it always differs."""
    position = chance.randrange(len(text) + 1)
    edit = chance.choice(("insert", "drop", "replace")) if position < len(text) else "insert"
    new = {
        "insert": chance.choice(LETTERS),
        "drop": "",
        "replace": chance.choice(LETTERS.replace(text[position : position + 1], "") if text else LETTERS),
    }[edit]
    return text[:position] + new + text[position + (edit != "insert") :]

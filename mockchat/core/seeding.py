"""SEED_ERRORS: alter a few messages, which a replay must then report."""

import random
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from mockchat.core import calls, wire
from mockchat.core.entries import Conversation
from mockchat.core.message import answering, as_object, read, spell

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
    places = [
        (conversation, number, wire.role_of(message))
        for conversation in conversations
        for number, message in enumerate(conversation.messages)
    ]
    chosen = set(chance.sample(range(len(places)), round(SHARE * len(places))))
    for role in ("user", "assistant"):
        of_this_role = [at for at, place in enumerate(places) if place[2] == role]
        if of_this_role and chosen.isdisjoint(of_this_role):
            chosen.add(chance.choice(of_this_role))
    for at in sorted(chosen):
        conversation, number, _ = places[at]
        messages = conversation.messages
        messages[number] = _alter(conversation, number, chance)
        conversation.recording = wire.join(messages)
    return len(chosen)


def _alter(conversation: Conversation, number: int, chance: random.Random) -> bytes:
    """Alter the text of a message or, if it has none, its parts or the arguments of a call; its details too."""
    message, details = conversation.messages[number], conversation.details.get(number)
    if details is None:
        return wire.with_text(message, alter(wire.content_of(message), chance))
    said, answered = as_object(details.sent), as_object(details.answered or details.sent)
    content = said["content"]
    change: dict[str, Any]
    if isinstance(content, list):
        change = {"content": [*content, {"type": "text", "text": chance.choice(LETTERS)}]}
    elif content or "tool_calls" not in said:
        change = {"content": alter(content or "", chance)}
    else:
        change = {"tool_calls": _alter_calls(said, chance)}
    said, answered = said | change, answered | change
    changed = details._replace(sent=spell(said), answered=spell(answered) if details.answered else b"")
    conversation.details = {**conversation.details, number: changed}
    return answering(read(said).wire, wire.more_of(message).get("answers"))


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
    before, rest = text[:position], text[position:]
    new = chance.choice(LETTERS.replace(rest[:1], ""))
    return before + chance.choice([new + rest, rest[1:], new + rest[1:]] if rest else [new])

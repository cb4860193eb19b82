"""SEED_ERRORS: alter a few messages, which a replay must then report."""

import random
from collections.abc import Sequence

from mockchat.core import wire
from mockchat.core.entries import Conversation
from mockchat.core.message import answering, as_object, read, spell

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def seed_errors(conversations: Sequence[Conversation], seed: str) -> int:
    """Alter 1 % of the messages in place, each by one character of its text. Returns their number.

    At least one user message and one assistant message are altered, if there are any. `seed` is any word; empty or `0`
    alters nothing. The same seed and conversations give the same alterations.
    """
    if seed in ("", "0"):
        return 0
    chance = random.Random(seed)
    places = [
        (conversation, number, wire.role_of(message))
        for conversation in conversations
        for number, message in enumerate(conversation.messages)
    ]
    chosen = set(chance.sample(range(len(places)), round(0.01 * len(places))))
    for role in ("user", "assistant"):
        of_this_role = [at for at, place in enumerate(places) if place[2] == role]
        if of_this_role and chosen.isdisjoint(of_this_role):
            chosen.add(chance.choice(of_this_role))
    for at in sorted(chosen):
        conversation, number, _ = places[at]
        _alter(conversation, number, chance)
    return len(chosen)


def _alter(conversation: Conversation, number: int, chance: random.Random) -> None:
    """Alter the text of a message, or its parts; its details too."""
    messages, details = conversation.messages, conversation.details.get(number)
    said = as_object(details.sent if details else messages[number])
    content = said["content"]
    if isinstance(content, list):
        content = [*content, {"type": "text", "text": chance.choice(LETTERS)}]
    else:
        content = alter(content or "", chance)
    said["content"] = content
    if details:
        answered = details.answered and spell(as_object(details.answered) | {"content": content})
        changed = details._replace(sent=spell(said), answered=answered)
        conversation.details = {**conversation.details, number: changed}
    messages[number] = answering(read(said).wire, wire.more_of(messages[number]).get("answers"))
    conversation.recording = wire.join(messages)


def alter(text: str, chance: random.Random) -> str:
    """The text with one character inserted, dropped or replaced; it always differs."""
    position = chance.randrange(len(text) + 1)
    before, rest = text[:position], text[position:]
    new = chance.choice(LETTERS.replace(rest[:1], ""))
    return before + chance.choice([new + rest, rest[1:], new + rest[1:]] if rest else [new])

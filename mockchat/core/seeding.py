"""SEED_ERRORS, the check on the checker: alter a few messages, so that a replay must find them."""

import random
from collections.abc import Sequence

from mockchat.core import wire
from mockchat.core.entries import Conversation

SHARE = 0.01
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def seed_errors(conversations: Sequence[Conversation], seed: str) -> int:
    """Alter 1 % of the messages in place, each by one character, and return how many.

    At least one user message and one assistant message are altered, as far as there are any. The same seed (any word
    but the empty one and `0`, which alter nothing) and the same conversations give the same alterations everywhere.
    """
    if seed in ("", "0"):
        return 0
    chance = random.Random(seed)
    places = [(conversation, number) for conversation in conversations for number in range(len(conversation.messages))]
    chosen = set(chance.sample(range(len(places)), round(SHARE * len(places))))
    for role in ("user", "assistant"):
        having = [n for n, (found, number) in enumerate(places) if wire.role_of(found.messages[number]) == role]
        if having and chosen.isdisjoint(having):
            chosen.add(chance.choice(having))
    for place in sorted(chosen):
        conversation, number = places[place]
        message = conversation.messages[number]
        conversation.messages[number] = wire.message(wire.role_of(message), alter(wire.content_of(message), chance))
    return len(chosen)


def alter(text: str, chance: random.Random) -> str:
    """A copy of the text with one character inserted, dropped or replaced: never the same text."""
    position = chance.randrange(len(text) + 1)
    edit = chance.choice(("insert", "drop", "replace")) if position < len(text) else "insert"
    new = {
        "insert": chance.choice(LETTERS),
        "drop": "",
        "replace": chance.choice(LETTERS.replace(text[position : position + 1], "") if text else LETTERS),
    }[edit]
    return text[:position] + new + text[position + (edit != "insert") :]

"""SEED_ERRORS, the check on the checker: alter a few messages, so that a replay must find them."""

import random
from collections.abc import Sequence

from mockchat.core import wire
from mockchat.core.entries import Conversation

SHARE = 0.01  # Of all messages, how many are altered.
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def seed_errors(conversations: Sequence[Conversation], seed: str) -> int:
    """Alter 1 % of the messages in place, each by one character, and return how many.

    At least one user message and one assistant message are altered, as far as there are any. `seed` is the value of the
    environment variable `SEED_ERRORS`: any word, or empty or `0` to alter nothing. The same seed and conversations give
    the same alterations everywhere.
    """
    if seed in ("", "0"):
        return 0
    chance = random.Random(seed)
    places = [(conversation, number) for conversation in conversations for number in range(len(conversation.messages))]
    chosen = set(chance.sample(range(len(places)), round(SHARE * len(places))))
    roles = [wire.role_of(conversation.messages[number]) for conversation, number in places]
    for role in ("user", "assistant"):
        of_this_role = [place for place, role_there in enumerate(roles) if role_there == role]
        if of_this_role and chosen.isdisjoint(of_this_role):
            chosen.add(chance.choice(of_this_role))
    for place in sorted(chosen):  # A set's own order differs between Pythons.
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

"""Where a history left the recordings: in words, for people."""

from collections.abc import Sequence
from typing import NamedTuple

from mockchat.core import ignorable, wire
from mockchat.core.difference import Difference, differ, likeness
from mockchat.core.index import ResponseIndex
from mockchat.core.text import around, common_length

_A_FEW_WORDS = 12  # bytes


class Diagnosis(NamedTuple):
    """Why a history has no reply: the request's parameter that is to blame, and a sentence."""

    param: str
    text: str


def diagnose(index: ResponseIndex, messages: list[bytes], numbers: Sequence[int] | None = None) -> Diagnosis:
    """Say which message of a history left the recordings, and how it differs from what is recorded there.

    `messages` is the history in wire form, as it is compared, after which no reply is recorded; `numbers` are those by
    which to call the messages, if not by their places. The time it takes does not depend on the number of recordings.
    """
    known = index.recorded(messages)
    history = wire.join(messages[:known])
    if known == len(messages):
        return Diagnosis("messages", _no_reply(index, history, known))
    place, message = f"messages[{numbers[known] if numbers else known}]", messages[known]
    role = wire.role_of(message)
    others = [other for other in wire.API_ROLES if other != role]
    for other in others:
        position = index.first(wire.append(history, wire.with_role(message, other)))
        if position >= 0:
            text = f"{place} has the role {role}, recorded is {other} (conversation {index.conversation_id(position)})"
            return Diagnosis(f"{place}.role", text)
    same_role = _nearby(index, history, message, [role])
    candidates = same_role or _nearby(index, history, message, others)
    if not candidates:
        return Diagnosis(place, f"{place} is one too many: {_end(index, history, known)}")
    closest, position = max(candidates, key=lambda item: likeness(item[0], message))
    named = index.conversation_id(position)
    if not known and _is_another_text(message, closest):
        start, other = (around(wire.content_of(each), 0) for each in (message, closest))
        text = f"no recording begins with {start}, or nearly so: the closest begins with {other}, conversation {named}"
        return Diagnosis(place, text)
    found = differ(message, wire.with_role(closest, role))
    if role == "tool" and wire.is_assistant(closest):
        found = Difference("", "is an answer too many, or one to no call")
    text = f"{place}{found.place} {found.text}"
    if not same_role:
        text += f", and the role {role} is recorded as {wire.role_of(closest)}"
    if ignorable.may_be_alike(message, closest):
        suggested = ignorable.suggestion(index, history, messages[known:])
        text += f"; {suggested}" if suggested else ""
    return Diagnosis(place + found.place, f"{text}; the closest recording there is conversation {named}")


def _is_another_text(sent: bytes, recorded: bytes) -> bool:
    """Whether two texts of some length have less than a quarter of the shorter one in common: hardly by mistake."""
    one, other = (wire.text_of(message)[1:-1] for message in (sent, recorded))
    shorter = min(len(one), len(other))
    return shorter > _A_FEW_WORDS and 4 * common_length(one, other) < shorter


def _nearby(index: ResponseIndex, history: bytes, message: bytes, roles: list[str]) -> list[tuple[bytes, int]]:
    """Messages of these roles that are recorded after a history, each with the position of its recording.

    Among them is the one whose text has the longest beginning in common with that of `message`.
    """
    return [
        (neighbour, position)
        for role in roles
        for neighbour, position in index.neighbours(history, wire.with_role(message, role))
        if wire.role_of(neighbour) == role
    ]


def _no_reply(index: ResponseIndex, history: bytes, known: int) -> str:
    """Why a history that is recorded has no reply: the recording ends there, or goes on with another role."""
    neighbours = index.neighbours(history, b"")
    if not neighbours:
        return f"all messages are recorded, but {_end(index, history, known)}"
    message, position = neighbours[0]
    before = (
        "all messages are recorded, but what follows" if known else "messages is empty, and what begins a recording"
    )
    kind = f"no assistant message: it is one of the role {wire.role_of(message)}"
    if wire.is_assistant(message):
        kind = "no reply: its weight is 0"
    content = around(wire.content_of(message), 0)
    return f"{before} is {kind}, {content}, in conversation {index.conversation_id(position)}"


def _end(index: ResponseIndex, history: bytes, known: int) -> str:
    if not known:
        return "nothing is recorded"
    return f"the recording ends there (conversation {index.conversation_id(index.first(history))}, {known} messages)"

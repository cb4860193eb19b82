"""Where a history left the recordings: in words, for people."""

from typing import NamedTuple

from mockchat.core import wire
from mockchat.core.index import ResponseIndex
from mockchat.core.text import around, common_length, difference


class Diagnosis(NamedTuple):
    """Why a history has no reply: the request's parameter that is to blame, and a sentence."""

    param: str
    text: str


def diagnose(index: ResponseIndex, messages: list[bytes], prefix: int, known: int) -> Diagnosis:
    """Say which message of a history left the recordings, and how it differs from the closest recording there.

    `messages` are in wire form, and no reply is recorded after them; `prefix` and `known` are what `index.find` said.
    Costs no more with more recordings.
    """
    if known == len(messages):
        return Diagnosis("messages", _no_reply(index, prefix, known))
    place, message = f"messages[{known}]", messages[known]
    role = wire.role_of(message)
    others = [other for other in wire.API_ROLES if other != role]
    for other in others:
        twin = index.step(prefix, wire.with_role(message, other))
        if twin >= 0:
            text = f"{place} has the role {role}, recorded is {other} (conversation {index.conversation_id(twin)})"
            return Diagnosis(f"{place}.role", text)
    same_role = _nearby(index, prefix, message, [role])
    candidates = same_role or _nearby(index, prefix, message, others)
    if not candidates:
        return Diagnosis(place, f"{place} is one too many: {_end(index, prefix, known)}")
    number, closest = max(candidates, key=lambda item: common_length(wire.text_of(item[1]), wire.text_of(message)))
    text = f"{place} {difference(wire.content_of(message), wire.content_of(closest))}"
    if not same_role:
        text += f", and the role {role} is recorded as {wire.role_of(closest)}"
    return Diagnosis(place, f"{text}; the closest recording there is conversation {index.conversation_id(number)}")


def _nearby(index: ResponseIndex, prefix: int, message: bytes, roles: list[str]) -> list[tuple[int, bytes]]:
    """Recorded messages of these roles, among them the one that has the longest beginning in common with `message`."""
    return [
        (number, found)
        for role in roles
        for number, found in index.neighbours(prefix, wire.with_role(message, role))
        if wire.role_of(found) == role
    ]


def _no_reply(index: ResponseIndex, prefix: int, known: int) -> str:
    following = index.neighbours(prefix, b"")
    if not following:
        return f"all messages are recorded, but {_end(index, prefix, known)}"
    number, message = following[0]
    before = (
        "all messages are recorded, but what follows" if known else "messages is empty, and what begins a recording"
    )
    content = wire.content_of(message)
    return (
        f"{before} is no assistant message: it is one of the role {wire.role_of(message)}, "
        f"{around(content, 0)}, in conversation {index.conversation_id(number)}"
    )


def _end(index: ResponseIndex, prefix: int, known: int) -> str:
    if not prefix:
        return "nothing is recorded"
    return f"the recording ends there (conversation {index.conversation_id(prefix)}, {known} messages)"

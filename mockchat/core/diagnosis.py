"""Where a history left the recordings: in words, for people."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mockchat.core import ignorable, matching, system_prompt, wire
from mockchat.core.difference import Difference, differ, differ_values, likeness, shown
from mockchat.core.index import Reply, ResponseIndex


class Diagnosis(NamedTuple):
    """Why a history has no reply: the request's parameter that is to blame, and a sentence."""

    param: str
    text: str


def diagnose(index: ResponseIndex, history: bytes, numbers: Sequence[int]) -> Diagnosis:
    """Say which message of a history left the recordings, and how it differs from what is recorded there.

    `history` is in wire form, as it is compared; no reply is recorded after it. `numbers` are those by which to call
    its messages. The time it takes hardly depends on the number of recordings.
    """
    known = history[: index.recorded(history)]
    among, start = index.following(known), wire.next_start(known)
    if known == history:
        return Diagnosis("messages", _no_reply(index, known, len(numbers), among))
    number = len(numbers) - history.count(wire.BETWEEN, start) - 1
    place, message = f"messages[{numbers[number]}]", wire.first(history, start)
    if not known and (prompted := system_prompt.explain(index, history, place)):
        hint = _hint(index, known, history, prompted.changed) if prompted.changed else ""
        return Diagnosis(place, prompted.text + hint)
    role = wire.role_of(message)
    candidates = _candidates(index, among, start, message)
    if not candidates:
        return Diagnosis(place, f"{place} is one too many: {_end(index, known, number)}")
    for other, position in candidates:
        if wire.with_role(other, role) == message:
            told = f"recorded is {wire.role_of(other)} (conversation {index.conversation_id(position)})"
            return Diagnosis(f"{place}.role", f"{place} has the role {role}, {told}")
    same_role = [each for each in candidates if wire.role_of(each[0]) == role]
    closest, position = max(same_role or candidates, key=lambda each: likeness(each[0], message))
    named = index.conversation_id(position)
    if not known and system_prompt.is_another_text(message, closest):
        sent, recorded = shown(message), shown(closest)
        told = f"no recording begins with {sent}, or nearly so: the closest begins with {recorded}"
        return Diagnosis(place, f"{told}, conversation {named}")
    found = differ(message, wire.with_role(closest, role))
    if role == "tool" and wire.is_assistant(closest):
        found = Difference("", "is an answer too many, or one to no call")
    text = f"{place}{found.place} {found.text}"
    if not same_role:
        text = f"{place} has the role {role}, recorded is {wire.role_of(closest)}; {text}"
    text += _hint(index, known, history, closest)
    return Diagnosis(place + found.place, f"{text}; the closest recording there is conversation {named}")


def _hint(index: ResponseIndex, known: bytes, history: bytes, closest: bytes) -> str:
    """What to ignore, if a history would be found so; `closest` is most like its first message that is not known."""
    rest = history[wire.next_start(known) :]
    if ignorable.may_be_alike(wire.first(rest), closest):
        suggested = ignorable.suggestion(index, known, wire.split(rest))
        return f"; {suggested}" if suggested else ""
    return ""


def diagnose_parameters(replies: Sequence[Reply], parameters: Mapping[str, Any], names: Sequence[str]) -> Diagnosis:
    """Say which of the named parameters of a request differ from those of each reply to its messages, and how."""

    def unlike(reply: Reply) -> tuple[int, int]:
        different = matching.differing(reply, parameters, names)
        return len(different), len(set(different) - (matching.of_reply(reply) or {}).keys())

    closest = min(replies, key=unlike)
    different = matching.differing(closest, parameters, names)
    known = matching.of_reply(closest) or {}
    told = "; ".join([f"{name} {differ_values(parameters.get(name), known.get(name))}" for name in different])
    named = wire.loads(closest.conversation_id)
    return Diagnosis(different[0], f"all messages are recorded, but {told}; the closest is conversation {named}")


def _candidates(index: ResponseIndex, among: range, start: int, message: bytes) -> list[tuple[bytes, int]]:
    """Recorded messages, each with its position; among them, of each role, the one most like the message."""
    if len(among) <= len(wire.API_ROLES):
        return [(wire.first(index.recordings[each], start), each) for each in among]
    return [
        (neighbour, position)
        for role in wire.API_ROLES
        for neighbour, position in index.neighbours(among, start, wire.with_role(message, role))
        if wire.role_of(neighbour) == role
    ]


def _no_reply(index: ResponseIndex, history: bytes, number: int, among: range) -> str:
    """Why a history that is recorded has no reply: the recording ends there, or goes on with another role."""
    if not among:
        return f"all messages are recorded, but {_end(index, history, number)}"
    message = wire.first(index.recordings[among.start], wire.next_start(history))
    before = (
        "all messages are recorded, but what follows" if number else "messages is empty, and what begins a recording"
    )
    kind = f"no assistant message: it is one of the role {wire.role_of(message)}"
    if wire.is_assistant(message):
        kind = "no reply: its weight is 0"
    return f"{before} is {kind}, {shown(message)}, in conversation {index.conversation_id(among.start)}"


def _end(index: ResponseIndex, history: bytes, number: int) -> str:
    if not history:
        return "nothing is recorded"
    return f"the recording ends there (conversation {index.conversation_id(index.before(history))}, {number} messages)"

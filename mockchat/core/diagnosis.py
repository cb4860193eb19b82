"""Where a history left the recordings: in words, for people."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mockchat.core import matching, wire
from mockchat.core.index import Reply, ResponseIndex
from mockchat.core.text import Difference, around, common_length, differ, differ_values, excerpt, likeness, shown

_SYSTEM = b'system"'
_PROMPTS = 8  # that are tried in place of one that is not recorded, beside its neighbours
_COMPARED = 65536  # bytes of a history, with each prompt
_A_FEW_WORDS = 12  # bytes


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
    if not index.recordings:
        return Diagnosis("messages", "nothing is recorded")
    if known == history:
        return Diagnosis("messages", _no_reply(index, known, len(numbers), among))
    number = len(numbers) - history.count(wire.BETWEEN, start) - 1
    place, message = f"messages[{numbers[number]}]", wire.first(history, start)
    if not known and (told := _system_prompt(index, history, place)):
        return Diagnosis(place, told)
    role = wire.role_of(message)
    candidates = _candidates(index, among, start, message)
    if not candidates:
        return Diagnosis(place, f"{place} is one too many: {_end(index, known, number)}")

    def fitness(candidate: tuple[bytes, int]) -> tuple[bool, bool, int]:
        other = candidate[0]
        return wire.with_role(other, role) == message, wire.role_of(other) == role, likeness(other, message)

    closest, position = max(candidates, key=fitness)
    named, closest_role = index.conversation_id(position), wire.role_of(closest)
    told = f"{place} has the role {role}, recorded is {closest_role}"
    if wire.with_role(closest, role) == message:
        return Diagnosis(f"{place}.role", f"{told} (conversation {named})")
    if not known and _is_another_text(message, closest):
        text = f"no recording begins with {shown(message)}, or nearly so: the closest begins with {shown(closest)}"
        return Diagnosis(place, f"{text}, conversation {named}")
    found = differ(message, wire.with_role(closest, role))
    if role == "tool" and closest_role == "assistant":
        found = Difference("", "is an answer too many, or one to no call")
    text = f"{place}{found.place} {found.text}; the closest recording is conversation {named}"
    return Diagnosis(place + found.place, text if closest_role == role else f"{told}; {text}")


def _is_another_text(sent: bytes, recorded: bytes) -> bool:
    """True if texts of more than a few words have less than a quarter of the shorter one in common."""
    one, other = (wire.text_of(message)[1:-1] for message in (sent, recorded))
    shorter = min(len(one), len(other))
    return shorter > _A_FEW_WORDS and 4 * common_length(one, other) < shorter


def _system_prompt(index: ResponseIndex, history: bytes, place: str) -> str | None:
    """What is wrong with the system prompt of a history, if with another one or none its next message is recorded.

    `place` is the name of the first message.
    """
    first = wire.first(history)
    prompt = first if first.startswith(_SYSTEM) else b""
    rest = history[len(prompt) + len(wire.BETWEEN) :] if prompt else history

    def with_prompt(other: bytes) -> bytes:
        return wire.join([other]) + wire.NEXT + rest if other else rest

    def rank(other: bytes) -> tuple[int, int]:
        return index.recorded(with_prompt(other)[:_COMPARED]) - len(other), common_length(prompt, other)

    instead = max([b"", *_prompts(index, prompt)], key=rank)
    changed = with_prompt(instead)
    known = changed[: index.recorded(changed)]
    if not rest or wire.count(known) <= bool(instead):
        return None
    named = index.conversation_id(index.before(known))
    closest = f"{'is' if index.replies(changed) else 'begins like'} conversation {named}"
    if not instead:
        return f"{place}, a system prompt, is not recorded; without it the history {closest}"
    if not prompt:
        missing = around(wire.content_of(instead), 0)
        return f"the system prompt is missing: with {missing} before {place} the history {closest}"
    return f"{place}, a system prompt, {differ(prompt, instead).text}; with the recorded one the history {closest}"


def _prompts(index: ResponseIndex, sent: bytes) -> list[bytes]:
    """Recorded system prompts: the neighbours of the sent one, and the first others of the index."""
    found = [message for message, _ in index.neighbours(index.following(b""), 0, sent)]
    key = _SYSTEM
    for _ in range(_PROMPTS):
        position = index.before(key)
        if position < len(index.recordings):
            found.append(wire.first(index.recordings[position]))
            key = found[-1] + b"~"  # Behind all recordings that begin with this message and a brace.
    return [message for message in found if message.startswith(_SYSTEM)]


def diagnose_parameters(replies: Sequence[Reply], parameters: Mapping[str, Any], names: Sequence[str]) -> Diagnosis:
    """Say which of the named parameters of a request differ from those of each reply to its messages, and how."""

    def unlike(reply: Reply) -> tuple[int, int]:
        different = matching.differing(reply, parameters, names)
        return len(different), len(set(different) - (matching.of_reply(reply) or {}).keys())

    closest = min(replies, key=unlike)
    different = matching.differing(closest, parameters, names)
    known = matching.of_reply(closest) or {}
    found = [differ_values(parameters.get(name), known.get(name), place=name) for name in different]
    told = "; ".join([" ".join(each) for each in found])
    named = excerpt(wire.loads(closest.conversation_id))
    return Diagnosis(different[0], f"all messages are recorded, but {told}; the closest is conversation {named}")


def _candidates(index: ResponseIndex, among: range, start: int, message: bytes) -> list[tuple[bytes, int]]:
    """Recorded messages, each with its position; among them, of each role, the one most like the message."""
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
    named = index.conversation_id(among.start)
    why = "weight is 0" if wire.is_assistant(message) else f"role is {wire.role_of(message)}"
    return f"all messages are recorded, but {shown(message)}, the next of conversation {named}, is no reply: its {why}"


def _end(index: ResponseIndex, history: bytes, number: int) -> str:
    return f"the recording ends there (conversation {index.conversation_id(index.before(history))}, {number} messages)"

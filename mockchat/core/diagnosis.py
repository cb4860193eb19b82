"""Where a history left the recordings, in words."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mockchat.core import matching, wire
from mockchat.core.index import Reply, ResponseIndex
from mockchat.core.text import around, common_length, differ, differ_values, excerpt, likeness, shown

_SYSTEM = b'system"'
_PROMPTS = 8  # that are tried in place of one that is not recorded, beside its neighbours
_A_FEW_WORDS = 13  # bytes
_LONG = 1024 * 1024  # bytes of a message by which the closest one is found
_COMPARED = 65536  # bytes of a history that are compared behind each prompt


class Diagnosis(NamedTuple):
    """Why a history has no reply: the request's parameter that is to blame, and a sentence."""

    param: str
    text: str


def diagnose(index: ResponseIndex, history: bytes, numbers: Sequence[int]) -> Diagnosis:
    """Say which message of a history without a reply left the recordings, and how it differs from what is there.

    `numbers` are those by which to call its messages. The time hardly depends on the number of recordings.
    """
    if not index.recordings:
        asked = f"; the last message is {shown(wire.split(history)[-1])}" if history else ""
        return Diagnosis("messages", f"nothing is recorded{asked}")
    known = history[: index.recorded(history)]
    among, start, number = index.following(known), wire.next_start(known), wire.count(known)
    ended = f"the recording ends there (conversation {index.conversation_id(index.before(known))}, {number} messages)"
    if known == history:
        return Diagnosis("messages", f"all messages are recorded, but {_no_reply(index, among, start) or ended}")
    place, message = f"messages[{numbers[number]}]", wire.first(history, start)
    if not among:
        return Diagnosis(place, f"{place} is one too many: {ended}")
    if not known and (problem := _system_prompt(index, history, place)):
        return Diagnosis(place, problem)
    role = wire.role_of(message)

    in_roles = [wire.with_role(message[:_LONG], each) for each in wire.API_ROLES]
    found = {position: other for each in in_roles for other, position in index.neighbours(among, start, each)}

    def fitness(position: int) -> tuple[bool, bool, int]:
        other = found[position]
        return wire.with_role(other, role) == message, wire.role_of(other) == role, likeness(other, message)

    position = max(found, key=fitness)
    closest, named, closest_role = found[position], index.conversation_id(position), wire.role_of(found[position])
    roles = f"{place} has the role {role}, recorded is {closest_role}"
    if wire.with_role(closest, role) == message:
        return Diagnosis(f"{place}.role", f"{roles} (conversation {named})")
    if not known and _is_another_text(message, closest):
        text = f"no recording begins with {shown(message)}, or nearly so: the closest begins with {shown(closest)}"
        return Diagnosis(place, f"{text}, conversation {named}")
    within, difference = differ(message, wire.with_role(closest, role))
    if role == "tool" and closest_role == "assistant":
        within, difference = "", "is an answer too many, or one to no call"
    text = f"{place}{within} {difference}; the closest recording is conversation {named}"
    return Diagnosis(place + within, text if closest_role == role else f"{roles}; {text}")


def _is_another_text(sent: bytes, recorded: bytes) -> bool:
    """True if texts of more than a few words have less than a quarter of the shorter one in common."""
    start = recorded.index(b":") + 2
    shorter = min(len(recorded) - start, len(sent) - sent.index(b":") - 2)
    is_text = wire.is_plain(sent) and wire.is_plain(recorded)
    return is_text and shorter >= _A_FEW_WORDS and 4 * (likeness(recorded, sent) - start) < shorter


def _no_reply(index: ResponseIndex, among: range, start: int) -> str | None:
    """Why the next recorded message is no reply; None if there is none."""
    if not among:
        return None
    message = wire.first(index.recordings[among.start], start)
    why = "weight is 0" if wire.is_assistant(message) else f"role is {wire.role_of(message)}"
    return f"{shown(message)}, the next of conversation {index.conversation_id(among.start)}, is no reply: its {why}"


def _system_prompt(index: ResponseIndex, history: bytes, place: str) -> str | None:
    """What is wrong with the system prompt, if with another one or none the message after it is recorded."""
    first = wire.first(history)
    prompt = first if first.startswith(_SYSTEM) else b""
    rest = history[len(prompt) + len(wire.BETWEEN) :] if prompt else history

    def with_prompt(other: bytes, rest: bytes) -> bytes:
        return wire.join([other]) + wire.NEXT + rest if other else rest

    def rank(other: bytes) -> tuple[int, int]:
        return index.recorded(with_prompt(other, rest[:_COMPARED])) - len(other), common_length(prompt, other)

    instead = max([b"", *_prompts(index, prompt)], key=rank)
    changed = with_prompt(instead, rest)
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
    return f"{place}, a system prompt, {differ(prompt, instead)[1]}; with the recorded one the history {closest}"


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
    differences = "; ".join([" ".join(each) for each in found])
    named = excerpt(wire.loads(closest.conversation_id))
    return Diagnosis(different[0], f"all messages are recorded, but {differences}; the closest is conversation {named}")

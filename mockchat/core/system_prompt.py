"""Why a history parts from the recordings in its first message: its system prompt is missing, added or changed.

That is so where, with another prompt or none, a recording begins with nearly the same message. The prompts that are
tried are those beside the sent one in the index and a few others: the index is not searched for more.
"""

from collections.abc import Iterator
from typing import NamedTuple

from mockchat.core import wire
from mockchat.core.difference import differ, likeness
from mockchat.core.index import ResponseIndex
from mockchat.core.text import around, common_length

A_FEW_WORDS = 12  # bytes
_SYSTEM = b'system"'
_COMPARED = 65536  # bytes of a history, with each prompt
_MOST = 8  # Prompts that are tried beside the sent one's neighbours.


class Found(NamedTuple):
    """The sentence, and the recorded prompt if it differs from the sent one."""

    text: str
    changed: bytes | None = None


def explain(index: ResponseIndex, history: bytes, place: str) -> Found | None:
    """Say what is wrong with the system prompt of a history that is not recorded; None if something else is.

    `place` is the name of the first message.
    """
    first = wire.first(history)
    prompt = first if first.startswith(_SYSTEM) else None
    rest = history if prompt is None else history[len(first) + len(wire.BETWEEN) :]
    if not rest:
        return None
    tried = {b"": None} | dict.fromkeys(each + b"}" for each in _prompts(index, prompt))
    shared, _, position, instead = max(_closest(index, each, rest, prompt) for each in tried)
    start = wire.next_start(instead)
    recorded = wire.first(index.recordings[position], start) if shared > 0 else b""
    if not _is_nearly(wire.first(rest), recorded) or (prompt is None and not instead):
        return None
    is_all = index.replies(wire.before_next(instead) + rest)
    closest = f"{'is' if is_all else 'begins like'} conversation {index.conversation_id(position)}"
    if not instead:
        return Found(f"{place}, a system prompt, is not recorded; without it the history {closest}")
    if prompt is None:
        missing = around(wire.content_of(instead[:-1]), 0)
        return Found(f"the system prompt is missing: with {missing} before {place} the history {closest}")
    text = differ(prompt, instead[:-1]).text
    return Found(f"{place}, a system prompt, {text}; with the recorded one the history {closest}", instead[:-1])


def _prompts(index: ResponseIndex, sent: bytes | None) -> Iterator[bytes]:
    """Recorded system prompts: the neighbours of the sent one, and the first others of the index."""
    if sent is not None:
        beside = index.neighbours(index.following(b""), 0, sent)
        yield from [message for message, _ in beside if message.startswith(_SYSTEM)]
    key = _SYSTEM
    for _ in range(_MOST):
        position = index.before(key)
        if position == len(index.recordings) or not index.recordings[position].startswith(_SYSTEM):
            return
        prompt = wire.first(index.recordings[position])
        yield prompt
        key = prompt + b"~"  # Behind all recordings that begin with this prompt and a brace.


def _closest(index: ResponseIndex, instead: bytes, rest: bytes, prompt: bytes | None) -> tuple[int, int, int, bytes]:
    """The recording most like a history that begins with another prompt, or none.

    Returns how many bytes of `rest` it shares, how like the two prompts are, its position, and the other prompt.
    """
    before = wire.before_next(instead)
    sought = before + rest[:_COMPARED]
    position = index.before(sought)
    beside = [each for each in (position - 1, position) if 0 <= each < len(index.recordings)]
    alike = likeness(prompt, instead) if prompt and instead else -bool(prompt or instead)
    shared = [(common_length(sought, index.recordings[each]) - len(before), each) for each in beside]
    most, closest = max(shared, default=(0, 0))
    return most, alike, closest, instead


def _is_nearly(sent: bytes, recorded: bytes) -> bool:
    """Whether two messages are the same, or long ones that begin alike."""
    if sent == recorded or not recorded:
        return sent == recorded
    return wire.role_of(sent) == wire.role_of(recorded) and not is_another_text(sent, recorded, few_are_alike=False)


def is_another_text(sent: bytes, recorded: bytes, few_are_alike: bool = True) -> bool:
    """Whether two texts have less than a quarter of the shorter one in common: hardly by mistake.

    Of texts of a few words nothing is known but what is given.
    """
    one, other = (wire.text_of(message)[1:-1] for message in (sent, recorded))
    shorter = min(len(one), len(other))
    return 4 * common_length(one, other) < shorter if shorter > A_FEW_WORDS else not few_are_alike

"""Compare answers with the recorded replies. No I/O.

Only the first of the `expected` replies is at hand: the others are looked up if the answer differs from it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mockchat.client import explain
from mockchat.core import answer, message, wire
from mockchat.core.answer import BadAnswer, Completion
from mockchat.core.index import Reply
from mockchat.core.text import differ, difference, excerpt, likeness

_ASSISTANT = ("assistant", "Assistant", None)  # The second is the original program's.
NOT_FOUND, MISMATCHED, ERROR = "not_found", "mismatched", "error"


class Problem(NamedTuple):
    """What is wrong: `kind` is one of the three above, `cause` groups equal failures, `detail` is for people."""

    kind: str
    cause: str
    detail: str


def verify(status: int, body: bytes, expected: Iterable[Reply]) -> Problem | None:
    """Compare a plain answer with the recorded replies; None if it is one of them."""
    if status != 200:
        return _refused(status, body)
    first = next(iter(expected))
    try:
        completion = answer.read(body, wire.text_of(first.message))
        says_more = any(map(completion.message.get, answer.IN_PLACE_OF_TEXT))
        if completion.content == answer.KNOWN:
            is_text = wire.is_plain(first.message) and not says_more
            if is_text and completion.flaw is None and _beside_the_message(completion, first) is None:
                return None
            completion = answer.read(body)
        elif completion.content is None and not (says_more or any(reply.details for reply in expected)):
            raise BadAnswer("an answer without choices[0].message.content", body)
        return _compare(completion, expected)
    except (BadAnswer, ValueError, RecursionError) as error:
        return _not_an_answer(error)


def verify_stream(status: int, body: bytes, expected: Iterable[Reply]) -> tuple[Problem | None, Sequence[int]]:
    """Compare a stream of server-sent events; returns also the end positions of the events that have a piece."""
    if status != 200:
        return _refused(status, body), []
    try:
        completion = answer.read_stream(body)
        finished = completion.finish_reason is not None
        if not (finished and completion.whole):
            missing = "[DONE]" if finished else "a finish_reason"
            raise BadAnswer(f"{answer.BROKE_OFF} before {missing}", body[-200:])
        return _compare(completion, expected), completion.arrivals
    except (BadAnswer, ValueError, RecursionError) as error:
        return _not_an_answer(error), []


def _beside_the_message(completion: Completion, reply: Reply) -> Problem | None:
    """What is wrong beside text and calls. A reply without details ended with `stop`."""
    said, reason, details = completion.message, completion.finish_reason, reply.details
    if said.get("role") not in _ASSISTANT:
        return Problem(MISMATCHED, "another role", f"got {said['role']!r}, recorded 'assistant'")
    recorded = wire.loads(details.finish_reason) if details else "stop"
    if reason != recorded and (details or reason is not None):
        return Problem(MISMATCHED, "another finish_reason", f"got {reason!r}, recorded {recorded!r}")
    refusal = said.get("refusal") or ""
    recorded = (message.as_object(details.answered).get("refusal") or "") if details else ""
    if refusal != recorded:
        return Problem(MISMATCHED, "another refusal", difference(str(refusal), recorded, "got"))
    return None


def no_answer(error: Exception) -> Problem:
    return Problem(ERROR, *explain(error))


def _not_an_answer(error: Exception) -> Problem:
    if not isinstance(error, BadAnswer):  # Of `message.read`, or of JSON that is nested too deeply.
        error = BadAnswer("an answer that is not a message of the API", str(error))
    return no_answer(error)


def _compare(completion: Completion, expected: Iterable[Reply]) -> Problem | None:
    said = completion.message | {"role": "assistant"}
    got = message.read(said)
    for call in said.get("tool_calls") or ():
        for key in ("id", "type"):
            if not call.get(key):
                return Problem(MISMATCHED, f"a call without its {key}", f"got {wire.json_of(call).decode()}")
    if completion.flaw:
        return Problem(MISMATCHED, completion.flaw, f"got {excerpt(wire.json_of(said))}")
    problems = []
    for reply in expected:
        if reply.message == got.wire:
            problems.append(_beside_the_message(completion, reply))
            if problems[-1] is None:
                return None
    if problems:
        return problems[0]
    closest = max(expected, key=lambda reply: likeness(got.wire, reply.message))
    place, told = differ(got.wire, closest.message, "got")
    cause = "other calls" if "_call" in place else "another text"
    return Problem(MISMATCHED, cause, f"{place.lstrip('.')} {told}".lstrip())


def _refused(status: int, body: bytes) -> Problem:
    return Problem(NOT_FOUND if status == 404 else ERROR, f"status {status}", answer.error_message(body))

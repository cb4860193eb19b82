"""Is an answer one of the recorded replies, and if not, what is wrong? No I/O.

Whatever a server may have sent is either one of the replies that were recorded, or a `Problem` that says why it is not.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mockchat.core import answer, wire
from mockchat.core.answer import BadAnswer
from mockchat.core.text import common_length, difference

NOT_FOUND, MISMATCHED, ERROR = KINDS = ("not_found", "mismatched", "error")


class Problem(NamedTuple):
    """What is wrong: `kind` is one of `KINDS`, `cause` the same for all that fail alike, `detail` is for people."""

    kind: str
    cause: str
    detail: str


def verify(status: int, body: bytes, expected: Sequence[bytes]) -> Problem | None:
    """Compare a plain answer with the recorded replies (wire form); None if it is one of them."""
    if status != 200:
        return _refused(status, body)
    try:
        content = answer.read(body, [wire.text_of(message) for message in expected]).content
    except BadAnswer as error:
        return _bad(error)
    if content == answer.KNOWN:
        return None
    if content is None:
        return _bad(BadAnswer("an answer without choices[0].message.content", body))
    return _compare(content, expected)


def verify_stream(status: int, body: bytes, expected: Sequence[bytes]) -> tuple[Problem | None, list[int]]:
    """The same for a stream of server-sent events; and the positions at which an event with text is complete."""
    if status != 200:
        return _refused(status, body), []
    try:
        stream = answer.read_stream(body)
    except BadAnswer as error:
        return _bad(error), []
    finished = stream.completion.finish_reason is not None
    if not (finished and stream.whole):
        missing = "[DONE]" if finished else "a finish_reason"
        return _bad(BadAnswer(f"a stream that ended without {missing}", body[-200:])), []
    return _compare(stream.completion.content or "", expected), stream.arrivals


def no_answer(error: Exception) -> Problem:
    """The problem of a request that got no answer."""
    return Problem(ERROR, *answer.explain(error))


def _compare(content: str, expected: Sequence[bytes]) -> Problem | None:
    if wire.message("assistant", content) in expected:
        return None
    recorded = [wire.content_of(message) for message in expected]
    closest = max(recorded, key=lambda text: common_length(content, text))
    return Problem(MISMATCHED, "another text", difference(content, closest, "got"))


def _refused(status: int, body: bytes) -> Problem:
    return Problem(NOT_FOUND if status == 404 else ERROR, f"status {status}", answer.error_message(body))


def _bad(error: BadAnswer) -> Problem:
    return Problem(ERROR, error.cause, error.detail)

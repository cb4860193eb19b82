"""What of an exchange with a model is recorded: a line of JSON for each. No I/O.

A line is `{"id": …, "messages": [history…, reply], "finish_reason": …, "usage": …}`, which `dataset.load` reads. The
history is the client's, and only the last message is a reply. What a client says the assistant said is not always what
it did say, so the assistant messages before it have the weight 0.
"""

import hashlib
from typing import Any

from mockchat.core import answer, entries, wire
from mockchat.core.answer import Completion
from mockchat.core.entries import Conversation
from mockchat.core.message import NO_REFUSAL

BEGINNING = b'{"id":"'  # Of each line.
_OTHER = "answers that are errors in spite of status 200, several choices, no strict JSON or no message of the API"


class NotRecordable(Exception):
    """An exchange that can't be recorded; the text says which kind is not, the same for all of a kind."""


def check_request(parameters: dict[str, Any]) -> None:
    """Raise `NotRecordable` where no answer to a readable request could be recorded, whatever it is."""
    if parameters.get("n") not in (None, 1):
        raise NotRecordable("requests for several choices (n above 1)")


def read_answer(body: bytes, streamed: bool) -> Completion:
    """The completion in an answer of status 200; `streamed` says whether it is one of server-sent events.

    Raises `NotRecordable` where it is none that could be answered again, and `answer.BadAnswer` for what is no answer,
    or only its beginning.
    """
    try:
        completion = _read_stream(body) if streamed else answer.read(body)
    except (answer.ErrorSent, answer.LaxJson):
        raise NotRecordable(_OTHER) from None
    if not completion.alone:
        raise NotRecordable(_OTHER)
    return completion


def _read_stream(body: bytes) -> Completion:
    stream = answer.read_stream(body + b"\n\n")  # Where a server leaves out the last blank line, nothing is lost.
    if not stream.whole:
        if stream.completion.alone and stream.completion.finish_reason is None:
            raise answer.BadAnswer("a stream that broke off in the middle")
        raise NotRecordable("streams without [DONE] at their end")
    return stream.completion


def conversation(history: list[dict[str, Any]], completion: Completion) -> Conversation:
    """What is recorded of an answer to a history, which is given as the client sent it. Raises `NotRecordable`.

    The id is made from the messages, so that the same exchange has the same id wherever it is recorded.
    """
    said = {"role": "assistant", "content": None} | completion.message
    messages = [{"content": None} | message | {"weight": 0} for message in history]
    entry = {"messages": [*messages, said], "finish_reason": completion.finish_reason, "usage": completion.usage}
    try:
        _, recording, size, details = entries.read(entry)
    except entries.EntryError:
        raise NotRecordable(_OTHER) from None
    recorded = Conversation("", recording, details)
    if not recorded.replies:
        raise NotRecordable(_OTHER)
    array = wire.array(wire.join(recorded.history(size)))
    recorded.id = hashlib.sha256(array).hexdigest()[:16]
    return recorded


def line(recorded: Conversation) -> bytes:
    """The line of a conversation of which the last message is the only reply, its end included."""
    *_, last = recorded.messages
    number = len(recorded.messages) - 1
    messages = [
        message + b',"weight":0' if wire.is_assistant(message) else message for message in recorded.history(number)
    ]
    details = recorded.details.get(number)
    ending = b""
    if details is None:
        messages.append(last)
    else:
        messages.append(details.answered.replace(NO_REFUSAL, b"", 1))
        ending = b',"finish_reason":%b' % details.finish_reason
        ending += b',"usage":%b' % details.usage if details.usage else b""
    return b'%b%b","messages":%b%b}\n' % (BEGINNING, recorded.id.encode(), wire.array(wire.join(messages)), ending)

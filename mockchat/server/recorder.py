"""An exchange with a model → a line of JSON to record. No I/O.

A line is `{"id": …, "messages": [history…, reply], "finish_reason": …, "request": {…}, …}`, with all that
`entries.ENDING` names. Only the last message is a reply: the assistant messages before it are what the client claims,
and have the weight 0.
"""

import hashlib
from typing import Any

from mockchat.core import answer, entries, matching, wire
from mockchat.core.answer import ABOUT, Completion
from mockchat.core.entries import Conversation
from mockchat.core.message import NO_REFUSAL

BEGINNING = b'{"id":"'  # Of each line.
_LONGEST_NAME = 256  # characters
_OTHER = "answers with status 200 that are errors, not strict JSON or not messages of the API"


class NotRecordable(Exception):
    """An exchange that can't be recorded. Equal reasons have equal texts, so that each is logged once."""


def read_answer(body: bytes, streamed: bool) -> Completion:
    """Read the completion in an answer of status 200, made of server-sent events if `streamed`.

    Raises `NotRecordable` for an answer that could not be given again as it was, and `answer.BadAnswer` for one that is
    broken or cut off.
    """
    try:
        # Some servers leave out the last blank line of a stream.
        completion = answer.read_stream(body + b"\n\n") if streamed else answer.read(body)
    except answer.Intact:
        raise NotRecordable(_OTHER) from None
    if completion.flaw == answer.NOT_ASKED_FOR:
        raise NotRecordable("answers with several choices")
    if streamed and not (completion.whole or completion.finish_reason):
        raise answer.BadAnswer("a stream that broke off in the middle")
    if streamed and not (completion.whole and completion.finish_reason):
        raise NotRecordable("streams without a finish_reason and [DONE]")
    return completion


def conversation(request: dict[str, Any], completion: Completion) -> Conversation:
    """The conversation to record of an answer to a request, given as the client sent it. Raises `NotRecordable`.

    The id is a hash of the messages, so that the same exchange has the same id wherever it is recorded.
    """
    said = {"role": "assistant", "content": None} | completion.message
    messages = [{"content": None} | message | {"weight": 0} for message in request["messages"]]
    names = {key: value for key in ABOUT if isinstance(value := completion.about.get(key), str)}
    # Each event of a stream repeats the names: longer ones are not recorded.
    entry = {key: name for key, name in names.items() if len(name) <= _LONGEST_NAME} | {
        "messages": [*messages, said],
        "finish_reason": completion.finish_reason,
        "usage": completion.about.get("usage"),
        "logprobs": completion.logprobs if isinstance(completion.logprobs, dict) else None,
        "request": matching.recorded(request),
    }
    try:
        recorded = entries.conversation(entry, "")
    except entries.DatasetError:
        raise NotRecordable(_OTHER) from None
    if not recorded.replies:
        raise NotRecordable(_OTHER)
    all_messages = wire.array(wire.join(recorded.history(len(recorded.messages))))
    recorded.id = hashlib.sha256(all_messages).hexdigest()[:16]
    return recorded


def line(recorded: Conversation) -> bytes:
    """The line of JSON for what `conversation` has made, with its line end."""
    number = len(recorded.messages) - 1
    details = recorded.details[number]
    messages = [
        message + b',"weight":0' if wire.is_assistant(message) else message for message in recorded.history(number)
    ]
    messages.append(details.answered.replace(NO_REFUSAL, b"", 1))
    ended = [(key.encode(), getattr(details, key)) for key in entries.ENDING]
    ending = b"".join([b',"%b":%b' % (key, value) for key, value in ended if value])
    return b'%b%b","messages":%b%b}\n' % (BEGINNING, recorded.id.encode(), wire.array(wire.join(messages)), ending)

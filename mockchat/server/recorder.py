"""What of an exchange with a model is recorded, and the file that it is appended to. No network.

A line of the file is `{"id": …, "messages": [history…, reply], "finish_reason": …, "usage": …}`, which `dataset.load`
reads. Rules that hold here:

- The history is the client's, and only the last message is a reply. What a client says the assistant said is not always
  what it did say, so the assistant messages before it have the weight 0.
- A line is written by one write and closed with the line's end, so that a crash leaves one unfinished line at most.
"""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import ujson

from mockchat.core import answer, entries, wire
from mockchat.core.answer import Completion
from mockchat.core.entries import Conversation, DatasetError
from mockchat.core.message import NO_REFUSAL

_BEGINNING = b'{"id":"'
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
        _, in_wire_form, details = entries.read(entry)
    except entries.EntryError:
        raise NotRecordable(_OTHER) from None
    recorded = Conversation("", in_wire_form, details)
    if not recorded.replies:
        raise NotRecordable(_OTHER)
    array = wire.join(recorded.history(len(in_wire_form)))
    recorded.id = hashlib.sha256(array).hexdigest()[:16]
    return recorded


def prepare(path: Path) -> str | None:
    """See that a file can be recorded into; where it is not there, it is made with the first record.

    An unfinished last line, as a crash leaves it, is removed; returns a line that says so. Raises `DatasetError` where
    the file can't be written, or has another form than JSON lines.
    """
    existed = path.exists()
    if existed and not path.is_file():
        raise DatasetError(f"{path}: is no regular file, so nothing can be recorded into it")
    try:
        with path.open("ab+") as file:
            file.seek(0)
            lines, first, last = 0, b"", b""
            for last in file:
                lines += 1
                first = first or last
            finished = last.endswith(b"\n") or _is_entry(last)
            ours = (lines == 1 or _is_entry(first)) and _BEGINNING.startswith(last[: len(_BEGINNING)])
            if last and not finished and ours:
                file.truncate(file.tell() - len(last))
                return f"{path}: line {lines} was never finished, as after a crash: its {len(last):,} bytes are removed"
            if first and not _is_entry(first):
                raise DatasetError(f"{path}: is not JSON lines, an entry a line, so nothing can be recorded into it")
            if finished and not last.endswith(b"\n"):
                file.write(b"\n")
        if not existed:
            path.unlink()
    except OSError as error:
        raise DatasetError(f"{path}: can't be recorded into: {error.strerror}") from None
    return None


def _is_entry(line: bytes) -> bool:
    try:
        return isinstance(ujson.loads(line), dict)
    except ValueError:
        return False


def append(path: Path, recorded: Conversation) -> None:
    """Append a conversation of which the last message is the only reply; raises `OSError`, and then nothing was."""
    line = _line(recorded)
    with path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size and os.pread(file.fileno(), 1, size - 1) != b"\n":  # Somebody has edited it meanwhile.
            line = b"\n" + line
        if file.write(line) < len(line):
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _line(recorded: Conversation) -> bytes:
    number = len(recorded.messages) - 1
    messages = [
        message + b',"weight":0' if wire.is_assistant(message) else message for message in recorded.history(number)
    ]
    details = recorded.details.get(number)
    ending = b""
    if details is None:
        messages.append(recorded.messages[number])
    else:
        messages.append(details.answered.replace(NO_REFUSAL, b"", 1))
        ending = b',"finish_reason":%b' % details.finish_reason
        ending += b',"usage":%b' % details.usage if details.usage else b""
    return b'%b%b","messages":%b%b}\n' % (_BEGINNING, recorded.id.encode(), wire.join(messages), ending)

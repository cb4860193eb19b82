"""What of an exchange with a model is recorded, and the file that it is appended to. No network.

A line of the file is `{"id": …, "messages": [history…, reply]}`, which `dataset.load` reads. Rules that hold here:

- Only what can be answered again exactly is recorded: histories and replies that are text and nothing else.
- A line is written by one write and closed with the line's end, so that a crash leaves one unfinished line at most.
"""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import ujson

from mockchat.core import answer, wire
from mockchat.core.entries import Conversation, DatasetError

_LINE = b'{"id":"%b","messages":%b}\n'
_BEGINNING = b'{"id":"'
_NO_TEXT = ("tool_calls", "function_call", "refusal", "audio")  # What a message may say beside or in place of a text.
_OTHER = "answers that are errors in spite of status 200, or several choices"


class NotRecordable(Exception):
    """An exchange that can't be recorded; the text says which kind is not, the same for all of a kind."""


def check_request(parameters: dict[str, Any]) -> None:
    """Raise `NotRecordable` where no answer to a readable request could be recorded, whatever it is."""
    if parameters.get("n") not in (None, 1):
        raise NotRecordable("requests for several choices (n above 1)")
    if any(message.get(key) for message in parameters["messages"] for key in _NO_TEXT):
        raise NotRecordable("histories that are not text alone, such as those with tool calls")


def read_answer(body: bytes, streamed: bool) -> str:
    """The reply in an answer of status 200; `streamed` says whether it is one of server-sent events.

    Raises `NotRecordable` where there is more to it than a text, or it is not finished by the model itself, and
    `answer.BadAnswer` for what is no answer, or only its beginning.
    """
    try:
        completion = _read_stream(body) if streamed else answer.read(body)
    except answer.ErrorSent:
        raise NotRecordable(_OTHER) from None
    message = completion.message
    if not completion.alone or message.get("role") != "assistant":
        raise NotRecordable(_OTHER)
    if any(map(message.get, _NO_TEXT)) or completion.content is None:
        raise NotRecordable("answers that are not text alone, such as tool calls")
    if completion.finish_reason != "stop":
        raise NotRecordable("answers that do not end by themselves (with the finish_reason stop)")
    return completion.content


def _read_stream(body: bytes) -> answer.Completion:
    stream = answer.read_stream(body + b"\n\n")  # Where a server leaves out the last blank line, nothing is lost.
    if not stream.whole:
        if stream.completion.alone and stream.completion.finish_reason is None:
            raise answer.BadAnswer("a stream that broke off in the middle")
        raise NotRecordable("streams without [DONE] at their end")
    return stream.completion


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


def append(path: Path, messages: list[bytes]) -> Conversation:
    """Append a history with its reply, in wire form; raises `OSError`, and then nothing was appended.

    The id is made from the messages, so that the same exchange has the same id wherever it is recorded.
    """
    array = wire.join(messages)
    conversation_id = hashlib.sha256(array).hexdigest()[:16]
    line = _LINE % (conversation_id.encode(), array)
    with path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size and os.pread(file.fileno(), 1, size - 1) != b"\n":  # Somebody has edited it meanwhile.
            line = b"\n" + line
        if file.write(line) < len(line):
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return Conversation(conversation_id, messages)

"""Is an answer one of the recorded replies, and if not, what is wrong; and why was there none? No I/O.

Follows https://platform.openai.com/docs/api-reference/chat/object and, for streams,
https://platform.openai.com/docs/api-reference/chat-streaming, as a client does: whatever a server may have sent is
either one of the replies that were recorded, or a `Problem` that says why it is not.
"""

import re
import secrets
from collections.abc import Iterator
from typing import NamedTuple

import aiohttp
import ujson

from mockchat.core import wire
from mockchat.core.diagnosis import common_length, difference

NOT_FOUND, MISMATCHED, ERROR = KINDS = ("not_found", "mismatched", "error")


class Problem(NamedTuple):
    """What is wrong: `kind` is one of `KINDS`, `cause` the same for all that fail alike, `detail` is for people."""

    kind: str
    cause: str
    detail: str


class _BadAnswer(Exception):
    """An answer that is none of the API's: the cause, and an excerpt of what was there in its place."""


def verify(status: int, answer: bytes, expected: list[bytes]) -> Problem | None:
    """Compare a plain answer with the recorded replies (wire form); None if it is one of them."""
    if status != 200:
        return _refused(status, answer)
    try:
        for message in expected:
            content = _content(answer, wire.text_of(message))
            if content is _RIGHT:
                return None
    except _BadAnswer as error:
        return _bad(error)
    return _compare(content, expected)


def verify_stream(status: int, answer: bytes, expected: list[bytes]) -> tuple[Problem | None, list[int]]:
    """The same for a stream of server-sent events; and the positions at which an event with text is complete."""
    if status != 200:
        return _refused(status, answer), []
    try:
        content, positions = _streamed_content(answer)
    except _BadAnswer as error:
        return _bad(error), []
    return _compare(content, expected), positions


def _compare(content: str, expected: list[bytes]) -> Problem | None:
    if wire.message("assistant", content) in expected:
        return None
    recorded = [wire.content_of(message) for message in expected]
    closest = max(recorded, key=lambda text: common_length(content, text))
    return Problem(MISMATCHED, "another text", difference(content, closest, "got"))


def _refused(status: int, answer: bytes) -> Problem:
    return Problem(NOT_FOUND if status == 404 else ERROR, f"status {status}", _error_message(answer))


def _bad(error: _BadAnswer) -> Problem:
    cause, sent = error.args
    return Problem(ERROR, cause, excerpt(sent))


# Stands for a text that is the recorded one, byte for byte. No server can know it.
_RIGHT = secrets.token_hex(16)
_RIGHT_TEXT = b'"%b"' % _RIGHT.encode()
_CONTENT_KEY = b'"content":'


def _content(answer: bytes, text: bytes) -> str:
    """The reply in an answer of OpenAI's shape, or of the original program's; `_RIGHT` if it is spelt like `text`.

    A long text that is right need not be decoded: it is taken out, and only what is around it is parsed. The key can't
    stand inside a string, where its quotes would be escaped.
    """
    parts: list[bytes] = []
    start = end = 0
    while (found := answer.find(_CONTENT_KEY, end)) >= 0:
        end = found + len(_CONTENT_KEY)
        if answer.startswith(text, end):
            parts += (answer[start:end], _RIGHT_TEXT)
            start = end = end + len(text)
    parsed = _parse(b"".join([*parts, answer[start:]]), answer)
    try:
        content = parsed["choices"][0]["message"]["content"]  # type: ignore[index]
    except (LookupError, TypeError):
        match parsed:
            case {"message": {"content": content}}:
                pass
            case _:
                content = None
    if not isinstance(content, str):
        raise _BadAnswer("an answer without choices[0].message.content", answer)
    return _RIGHT if content == _RIGHT else content


def _streamed_content(answer: bytes) -> tuple[str, list[int]]:
    """The reply in a stream of `chat.completion.chunk` objects, of its first choice: the deltas joined."""
    deltas, positions = [], []
    finished = done = False
    for end, data in events(answer):
        if data == b"[DONE]":
            done = True
            break
        match _parse(data, data):
            case {"error": _}:
                raise _BadAnswer("a stream that broke off with an error", _error_message(data))
            case {"choices": [{"index": 0, "delta": delta, **rest}, *_]}:
                finished = finished or rest.get("finish_reason") is not None
                if isinstance(delta, dict) and isinstance(delta.get("content"), str):
                    deltas.append(delta["content"])
                    if delta["content"]:
                        positions.append(end)
    if not (done and finished):
        missing = "[DONE]" if finished else "a finish_reason"
        raise _BadAnswer(f"a stream that ended without {missing}", answer[-200:])
    return "".join(deltas), positions


def events(answer: bytes) -> Iterator[tuple[int, bytes]]:
    """The data of each server-sent event, and the position at which the event is complete."""
    start = 0
    for blank in BLANK_LINE.finditer(answer):
        lines = answer[start : blank.start()].splitlines()
        start = blank.end()
        data = [line[5:].strip() for line in lines if line.startswith(b"data:")]
        if data:
            yield start, b"\n".join(data)


BLANK_LINE = re.compile(rb"\r?\n\r?\n")


def _parse(data: bytes, sent: bytes) -> object:
    try:
        parsed: object = ujson.loads(data)
    except ValueError:
        raise _BadAnswer("an answer that is not JSON", sent) from None
    return parsed


def _error_message(answer: bytes) -> str:
    try:
        match ujson.loads(answer):
            case {"error": {"message": str(message)}}:
                return excerpt(message)
    except ValueError:
        pass
    return excerpt(answer)


def explain(error: Exception) -> Problem:
    """What a request that got no answer died of, and what to check."""
    match error:
        case TimeoutError():
            cause, detail = "no answer in time", str(error)
        case aiohttp.ClientConnectorError():
            cause, detail = "no connection", f"to {error.host}:{error.port} ({error.strerror or error})"
            if isinstance(error.os_error, ConnectionRefusedError):
                detail += ": does a server listen there?"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | ConnectionResetError():
            cause, detail = "closed connection", "the server closed it before it answered: its log may say why"
        case aiohttp.ClientPayloadError():
            cause, detail = "cut-off answer", "it ended before its end, or is damaged: look at what is between"
        case _:
            cause = "no HTTP, or no connection"
            detail = excerpt(str(error) or type(error).__name__)
    return Problem(ERROR, cause, detail)


def excerpt(text: str | bytes) -> str:
    """The beginning of what a server sent, as it can be printed."""
    if isinstance(text, bytes):
        text = text[:2000].decode(errors="replace")
    short = text if len(text) <= 1000 else text[:1000] + "…"
    return short if short.isprintable() and short else ascii(short)

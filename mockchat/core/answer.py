"""An answer of the API as a client reads it, whole or streamed; and why there was none. No I/O.

Follows https://platform.openai.com/docs/api-reference/chat/object and, for streams,
https://platform.openai.com/docs/api-reference/chat-streaming in server-sent events:
https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

import re
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import aiohttp
import ujson

from mockchat.core.text import excerpt

# Stands for a text that is spelt as one of the known ones, byte for byte. No server can know it.
KNOWN = secrets.token_hex(16)
_KNOWN_TEXT = b'"%b"' % KNOWN.encode()
_CONTENT_KEY = b'"content":'

_JOINED = ("content", "refusal")  # What the deltas of a stream bring in pieces.

# Lines end in CR LF, LF or CR. A CR before a LF is no end by itself.
BLANK_LINE = re.compile(rb"\n(?:\r\n?|\n)|\r\n(?:\r\n?|\n)|\r\r\n?")


class BadAnswer(Exception):
    """An answer that is none of the API's: `cause` is the same for all that are bad alike, `detail` is an excerpt."""

    def __init__(self, cause: str, sent: str | bytes | None = None) -> None:
        self.cause = cause
        self.detail = "" if sent is None else excerpt(sent)
        super().__init__(f"{cause}: {self.detail}" if self.detail else cause)


class ErrorSent(BadAnswer):
    """An error in place of an answer, or of the rest of a stream, in spite of status 200."""


class NoAnswer(NamedTuple):
    """Why there was no answer: `cause` is the same for all that fail alike, `detail` is for people."""

    cause: str
    detail: str


class Completion(NamedTuple):
    """The first choice of an answer: its message as the API's object, and why it ended there, if it says so."""

    message: dict[str, Any]
    finish_reason: Any
    alone: bool  # Whether it is the only choice.

    @property
    def content(self) -> str | None:
        """The text of the message, if it has one."""
        content = self.message.get("content")
        return content if isinstance(content, str) else None


class Stream(NamedTuple):
    """What the events of a stream make together; `whole` is whether it ended with `[DONE]`.

    `arrivals` are the positions at which the events are complete that bring a text.
    """

    completion: Completion
    whole: bool
    arrivals: list[int]


def endpoint(base_url: str) -> str:
    """The URL to ask for completions, of an API's base URL (which ends in `/v1`, with or without a slash)."""
    return base_url.rstrip("/") + "/chat/completions"


def read(answer: bytes, known: Sequence[bytes] = ()) -> Completion:
    """Read an answer of OpenAI's shape, or of the original program's (`{"message": …}`). Raises `BadAnswer`.

    `known` are texts as JSON string literals. Where the message's content is spelt like one of them it need not be
    decoded, and `KNOWN` stands in its place.
    """
    parsed = _parse(_without(known, answer), answer)
    match parsed:
        case {"choices": [{"message": dict(message), **choice}, *others]}:
            return Completion(message, choice.get("finish_reason"), alone=not others)
        case {"message": dict(message)}:
            return Completion(message, None, alone=True)
        case {"error": _}:
            raise ErrorSent("an answer without choices[0].message", answer)
    raise BadAnswer("an answer without choices[0].message", answer)


def _without(known: Sequence[bytes], answer: bytes) -> bytes:
    """The answer with `KNOWN` in place of each content that is spelt like a known text.

    What looks like the key of a content is one: in a string its quotes would be escaped.
    """
    parts: list[bytes] = []
    start = end = 0
    while (key := answer.find(_CONTENT_KEY, end)) >= 0:
        end = key + len(_CONTENT_KEY)
        for text in known:
            if answer.startswith(text, end):
                parts += (answer[start:end], _KNOWN_TEXT)
                start = end = end + len(text)
                break
    return b"".join([*parts, answer[start:]])


def read_stream(answer: bytes) -> Stream:
    """Read a stream of `chat.completion.chunk` objects up to `[DONE]`, or as far as it goes. Raises `BadAnswer`."""
    message: dict[str, Any] = {"role": "assistant"}
    pieces: dict[str, list[str]] = {"content": []}
    arrivals: list[int] = []
    finish_reason = None
    alone, whole = True, False
    for end, data in events(answer):
        if data == b"[DONE]":
            whole = True
            break
        chunk = _parse(data, data)
        match chunk:
            case {"error": _}:
                raise ErrorSent("a stream that broke off with an error", error_message(data))
            case {"choices": list(choices)}:
                for choice in choices:
                    match choice:
                        case {"index": 0, "delta": dict(delta)}:
                            if _add(delta, message, pieces):
                                arrivals.append(end)
                        case {"index": 0}:
                            pass
                        case _:
                            alone = False
                            continue
                    finish_reason = choice.get("finish_reason") or finish_reason
    message |= {key: "".join(texts) for key, texts in pieces.items()}
    return Stream(Completion(message, finish_reason, alone), whole, arrivals)


def _add(delta: dict[str, Any], message: dict[str, Any], pieces: dict[str, list[str]]) -> bool:
    """Add a delta to a message, and to the pieces of its texts; returns whether it brings a piece of the content.

    What is no text is not joined: the last value counts.
    """
    for key, value in delta.items():
        if key in _JOINED:
            if isinstance(value, str):
                pieces.setdefault(key, []).append(value)
        elif value is not None:
            message[key] = value
    return isinstance(delta.get("content"), str) and delta["content"] != ""


def events(answer: bytes) -> Iterator[tuple[int, bytes]]:
    """The data of each server-sent event, with the position at which the event is complete."""
    start = 0
    for blank in BLANK_LINE.finditer(answer):
        lines = answer[start : blank.start()].splitlines()
        start = blank.end()
        data = [line[5:].strip() for line in lines if line.startswith(b"data:")]
        if data:
            yield start, b"\n".join(data)


def _parse(data: bytes, sent: bytes) -> object:
    try:
        parsed: object = ujson.loads(data)
    except ValueError:
        raise BadAnswer("an answer that is not JSON", sent) from None
    return parsed


def error_message(answer: bytes) -> str:
    """The message of an OpenAI error object, or what else is there, as it can be printed on one line."""
    try:
        match ujson.loads(answer):
            case {"error": {"message": str(message)}}:
                return excerpt(message)
    except ValueError:
        pass
    return excerpt(answer)


def explain(error: Exception) -> NoAnswer:
    """What a request that got no answer died of, and what to check."""
    match error:
        case TimeoutError():
            return NoAnswer("no answer in time", str(error))
        case aiohttp.ClientConnectorError():
            detail = f"to {error.host}:{error.port} ({error.strerror or error})"
            if isinstance(error.os_error, ConnectionRefusedError):
                detail += ": does a server listen there?"
            return NoAnswer("no connection", detail)
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | ConnectionResetError():
            return NoAnswer("closed connection", "the server closed it before it answered: its log may say why")
        case aiohttp.ClientPayloadError():
            return NoAnswer("cut-off answer", "it ended before its end, or is damaged: look at what is between")
    return NoAnswer("no HTTP, or no connection", excerpt(str(error) or type(error).__name__))

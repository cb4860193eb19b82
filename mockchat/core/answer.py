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

from mockchat.core import wire
from mockchat.core.message import TEXTS
from mockchat.core.text import excerpt

# Stands for a text that is spelt as one of the known ones, byte for byte. No server can know it.
KNOWN = secrets.token_hex(16)
_KNOWN_TEXT = b'"%b"' % KNOWN.encode()
_CONTENT_KEY = b'"content":'
_NOT_ASKED_FOR = "a choice that was not asked for"

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


class LaxJson(BadAnswer):
    """An answer that is no JSON, although parsers that are not strict take it for that."""


class NoAnswer(NamedTuple):
    """Why there was no answer: `cause` is the same for all that fail alike, `detail` is for people."""

    cause: str
    detail: str


class Completion(NamedTuple):
    """The first choice of an answer: its message as the API's object, why it ended there and the usage, if it says so.

    `flaw` says what is wrong with the answer, although it can be guessed what it means.
    """

    message: dict[str, Any]
    finish_reason: Any
    alone: bool  # Whether it is the only choice.
    usage: Any = None
    flaw: str | None = None

    @property
    def content(self) -> str | None:
        """The text of the message, if it has one."""
        content = self.message.get("content")
        return content if isinstance(content, str) else None


class Stream(NamedTuple):
    """What the events of a stream make together; `whole` is whether it ended with `[DONE]`.

    `arrivals` are the positions at which the events are complete that bring a piece of the message.
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
    if isinstance(parsed, dict) and parsed.get("error"):
        beside = "beside" if "choices" in parsed or "message" in parsed else "in place of"
        raise ErrorSent(f"an error {beside} a message", error_message(answer))
    match parsed:
        case {"choices": [{"message": dict(message), **choice}, *others], **answer_keys}:
            alone = not others and choice.get("index", 0) == 0
            flaw = None if alone else _NOT_ASKED_FOR
            return Completion(message, choice.get("finish_reason"), alone, answer_keys.get("usage"), flaw)
        case {"message": dict(message)}:
            return Completion(message, None, alone=True)
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
    message = _Message()
    arrivals: list[int] = []
    finish_reason = usage = None
    alone, whole = True, False
    for end, name, data in events(answer):
        if name == b"error":
            raise ErrorSent("a stream that broke off with an error", error_message(data))
        if data == b"[DONE]":
            whole = True
            break
        chunk = _parse(data, data)
        if isinstance(chunk, dict):
            usage = chunk.get("usage") or usage
        match chunk:
            case {"error": error} if error:
                raise ErrorSent("a stream that broke off with an error", error_message(data))
            case {"choices": list(choices)}:
                for choice in choices:
                    match choice:
                        case {"index": 0, "delta": dict(delta)}:
                            if message.add(delta):
                                arrivals.append(end)
                        case {"index": 0}:
                            pass
                        case _:
                            alone = False
                            continue
                    finish_reason = choice.get("finish_reason") or finish_reason
    flaw = message.flaw if alone else _NOT_ASKED_FOR
    return Stream(Completion(message.whole(), finish_reason, alone, usage, flaw), whole, arrivals)


class _Message:
    """The message that the deltas of a stream make together. What is no text is not joined: the last value counts."""

    def __init__(self) -> None:
        self.flaw: str | None = None
        self._values: dict[str, Any] = {"role": "assistant", "content": ""}
        self._texts: dict[str, list[str]] = {}
        self._calls: list[dict[str, Any]] = []
        self._numbers: dict[Any, int] = {}  # By index: the number of the call that is going on under it.

    def add(self, delta: dict[str, Any]) -> bool:
        """Add a delta; returns whether it brings a piece of what the model says."""
        said = False
        for key, value in delta.items():
            if key in TEXTS:
                if isinstance(value, str):
                    self._texts.setdefault(key, []).append(value)
                    said = said or value != ""
                elif isinstance(value, list):
                    self._values[key] = value
            elif key == "tool_calls" and isinstance(value, list):
                said = said or bool(value)
                for call in value:
                    if isinstance(call, dict):
                        self._add_call(call)
            elif key == "function_call" and isinstance(value, dict):
                said = True
                _join(self._values, {key: value})
            elif value is not None:
                self._values[key] = value
        return said

    def _add_call(self, call: dict[str, Any]) -> None:
        """Add a call's delta to the call with its index, or else (with its id, if it has one) to the last one."""
        index, call_id = call.get("index"), call.get("id")
        number = self._numbers.get(index, -1) if type(index) is int else -1
        if type(index) is not int:
            self.flaw = "a call in a stream without its index"
            index = None
            number = -1 if call_id else len(self._calls) - 1
        elif number >= 0 and call_id not in (None, "", self._calls[number].get("id")):
            self.flaw = "two calls in a stream with the same index"
            number = -1
        if number < 0:
            number = len(self._calls)
            self._calls.append({})
        self._numbers[index] = number
        _join(self._calls[number], call)

    def whole(self) -> dict[str, Any]:
        """The message."""
        texts = {key: "".join(pieces) for key, pieces in self._texts.items()}
        message = self._values | {key: text for key, text in texts.items() if text or not self._values.get(key)}
        if self._calls:
            calls = [{key: value for key, value in call.items() if key != "index"} for call in self._calls]
            message["tool_calls"] = calls
        if not message["content"] and any(message.get(key) for key in ("tool_calls", "function_call", "refusal")):
            message["content"] = None
        return message


def _join(whole: dict[str, Any], piece: dict[str, Any]) -> None:
    """Add a piece of a call: what is given to it is joined, the rest of it is as it first came."""
    for key, value in piece.items():
        before = whole.get(key)
        if isinstance(value, dict):
            whole[key] = before if isinstance(before, dict) else {}
            _join(whole[key], value)
        elif key in ("arguments", "input") and isinstance(value, str):
            whole[key] = before + value if isinstance(before, str) else value
        elif value not in (None, "") or key not in whole:
            whole[key] = value


def events(answer: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The position at which each server-sent event is complete, its name (if it has one) and its data."""
    start = 0
    for blank in BLANK_LINE.finditer(answer):
        lines = answer[start : blank.start()].splitlines()
        start = blank.end()
        data = [line[5:].strip() for line in lines if line.startswith(b"data:")]
        if data:
            names = [line[6:].strip() for line in lines if line.startswith(b"event:")]
            yield start, names[-1] if names else b"", b"\n".join(data)


def _parse(data: bytes, sent: bytes) -> object:
    try:
        parsed: object = wire.parse(data)
        return parsed
    except ValueError as error:
        problem = str(error)
    try:
        ujson.loads(data)
    except ValueError:
        raise BadAnswer("an answer that is not JSON", sent) from None
    raise LaxJson("an answer that is not JSON, to the letter of RFC 8259", problem)


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
        case BadAnswer():
            return NoAnswer(error.cause, error.detail)
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

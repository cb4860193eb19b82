"""An answer of the API as a client reads it, whole or streamed. No I/O.

Follows https://platform.openai.com/docs/api-reference/chat/object and, for streams,
https://platform.openai.com/docs/api-reference/chat-streaming in server-sent events:
https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from io import StringIO
from typing import Any, NamedTuple

from mockchat.core import wire
from mockchat.core.calls import TEXT_KEYS
from mockchat.core.message import TEXTS
from mockchat.core.text import excerpt

# Replaces a content that has the bytes of a known text. Random: no server can send it.
KNOWN = secrets.token_hex(16)
_KNOWN_TEXT = b'"%b"' % KNOWN.encode()
_CONTENT_KEY = b'"content":'  # Always a key: inside a string its quotes would be escaped.
NOT_ASKED_FOR = "a choice that was not asked for"
ABOUT = ("usage", "model", "service_tier", "system_fingerprint")
_IN_PIECES = {*TEXTS, *TEXT_KEYS.values()}  # The keys of the texts that a stream has in pieces.
IN_PLACE_OF_TEXT = ("tool_calls", "function_call", "refusal")
BROKE_OFF = "a stream that broke off"  # The beginning of the cause of each incomplete stream.

# Lines end in CR LF, LF or CR; CR LF is one end, not two.
BLANK_LINE = re.compile(rb"\n(?:\r\n?|\n)|\r\n(?:\r\n?|\n)|\r\r\n?")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class BadAnswer(Exception):
    """An answer not of the API's form: `cause` groups equal failures, `detail` is an excerpt."""

    def __init__(self, cause: str, sent: str | bytes | None = None) -> None:
        self.cause = cause
        self.detail = "" if sent is None else excerpt(sent)
        super().__init__(f"{cause}: {self.detail}" if self.detail else cause)


class Intact(BadAnswer):
    """A bad answer of a good transfer: an error with status 200, also in a stream, or JSON for lax parsers alone."""


class Completion(NamedTuple):
    """The first choice of an answer."""

    message: dict[str, Any]  # The API's object.
    finish_reason: Any = None
    about: Mapping[Any, Any] = {}  # The members of the answer that `ABOUT` names, and maybe others.
    flaw: str | None = None  # A defect that does not hide what the model said.
    logprobs: Any = None
    whole: bool = True  # False for a stream that did not end with `[DONE]`.
    arrivals: Sequence[int] = ()  # The end positions of the stream's events that have a piece of the message.

    @property
    def content(self) -> str | None:
        content = self.message.get("content")
        return content if isinstance(content, str) else None


def endpoint(base_url: str) -> str:
    return base_url.rstrip("/") + "/chat/completions"


def read(answer: bytes, known: bytes = b"") -> Completion:
    """Read an answer of OpenAI's shape, or of the original program's (`{"message": …}`). Raises `BadAnswer`.

    A content with the bytes of `known`, a text as a JSON string literal, is not decoded: it becomes `KNOWN`.
    """
    parsed = _parse(_without(known, answer) if known else answer, answer)
    if isinstance(parsed, dict) and parsed.get("error"):
        beside = "beside" if "choices" in parsed or "message" in parsed else "in place of"
        raise Intact(f"an error {beside} a message", error_message(answer))
    match parsed:
        case {"choices": [{"message": dict(message), **choice}, *others], **about}:
            flaw = NOT_ASKED_FOR if others or choice.get("index", 0) != 0 else None
            return Completion(message, choice.get("finish_reason"), about, flaw, choice.get("logprobs"))
        case {"message": dict(message)}:
            return Completion(message)
    raise BadAnswer("an answer without choices[0].message", answer)


def _without(known: bytes, answer: bytes) -> bytes:
    """Replace each content that has the bytes of a known text."""
    parts: list[bytes] = []
    start = end = 0
    while (key := answer.find(_CONTENT_KEY, end)) >= 0:
        end = key + len(_CONTENT_KEY)
        if answer.startswith(known, end):
            parts += (answer[start:end], _KNOWN_TEXT)
            start = end = end + len(known)
    return b"".join([*parts, answer[start:]])


def read_stream(answer: bytes) -> Completion:
    """Read a stream of `chat.completion.chunk` objects. What follows its end is a flaw. Raises `BadAnswer`."""
    message = _Message()
    arrivals: list[int] = []
    finish_reason = None
    about: dict[str, Any] = {}
    logprobs: dict[str, list[Any]] = {}
    alone, whole = True, False
    for end, name, data in events(answer):
        if whole:
            message.flaw = "an event after [DONE]"
            break
        if data.startswith(b"[DONE]"):  # As OpenAI's SDKs see it.
            whole = True
            continue
        chunk = {"error": True} if name == b"error" else _parse(data, data)
        if not isinstance(chunk, dict):
            continue
        if chunk.get("error"):
            raise Intact(f"{BROKE_OFF} with an error", error_message(data))
        for key in ABOUT:
            if value := chunk.get(key):
                about[key] = value
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict) or choice.get("index") != 0:
                alone = False
                continue
            if is_piece := isinstance(delta := choice.get("delta"), dict) and message.add(delta):
                arrivals.append(end)
            reason = choice.get("finish_reason") or finish_reason
            if finish_reason and (is_piece or reason != finish_reason):
                message.flaw = "a stream that goes on after its finish_reason"
            finish_reason = reason
            given = choice.get("logprobs")
            for key, value in given.items() if isinstance(given, dict) else ():
                logprobs.setdefault(key, []).extend(value if isinstance(value, list) else ())
    flaw = message.flaw if alone else NOT_ASKED_FOR
    joined = {key: value or None for key, value in logprobs.items()}
    return Completion(message.joined(), finish_reason, about, flaw, joined or None, whole, arrivals)


class _Message:
    """The message that a stream's deltas make."""

    def __init__(self) -> None:
        self.flaw: str | None = None
        self._said: dict[str, Any] = {"role": "assistant"}
        self._calls: list[dict[str, Any]] = []
        self._by_index: dict[int, dict[str, Any]] = {}  # The newest call that has it.

    def add(self, delta: dict[str, Any]) -> bool:
        """Add a delta; True if it has a piece of what the model says."""
        calls = delta.pop("tool_calls", None)
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                self._add_call(call)
        _add(self._said, delta)
        said = any(isinstance(delta.get(key), str) and delta[key] for key in TEXTS)
        return said or bool(calls or delta.get("function_call"))

    def _add_call(self, call: dict[str, Any]) -> None:
        """Add a call's delta to the call with its index. Without an index, an id begins a new call."""
        index, call_id = call.pop("index", None), call.get("id")
        if type(index) is int:
            known = self._by_index.get(index)
            if known is not None and call_id not in (None, "", known.get("id")):
                self.flaw = "two calls in a stream with the same index"
                known = None
        else:
            self.flaw = "a call in a stream without its index"
            known = self._calls[-1] if self._calls and not call_id else None
        if known is None:
            known = {}
            self._calls.append(known)
        if type(index) is int:
            self._by_index[index] = known
        _add(known, call)

    def joined(self) -> dict[str, Any]:
        """The message. Its content is null if the stream has none, but something in place of it."""
        message: dict[str, Any] = _joined(self._said)
        if self._calls:
            message["tool_calls"] = list(map(_joined, self._calls))
        if message.get("content") is None:
            message["content"] = None if any(map(message.get, IN_PLACE_OF_TEXT)) else ""
        return message


def _add(said: dict[str, Any], delta: dict[str, Any], is_called: bool = False) -> None:
    """Add a delta: pieces of a text are collected, of other values the last one counts."""
    for key, value in delta.items():
        known = said.get(key)
        if key in TEXT_KEYS and isinstance(value, dict) and not is_called:
            if not isinstance(known, dict):
                known = said[key] = {}
            _add(known, value, is_called=True)
        elif value in (None, ""):
            said[key] = value if known is None else known
        elif key in _IN_PIECES and isinstance(value, str):
            if not isinstance(known, StringIO):
                known = said[key] = StringIO()  # To join each piece would be quadratic.
            known.write(value)
        elif not isinstance(known, StringIO):
            said[key] = value


def _joined(value: Any, levels: int = 2) -> Any:
    """A value with texts in place of their pieces, which are at most two levels down."""
    if isinstance(value, dict) and levels:
        return {key: _joined(part, levels - 1) for key, part in value.items()}
    return value.getvalue() if isinstance(value, StringIO) else value


def events(answer: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The end position, the name (empty if it has none) and the data of each server-sent event that has data."""
    start = len(_BYTE_ORDER_MARK) if answer.startswith(_BYTE_ORDER_MARK) else 0
    for blank in BLANK_LINE.finditer(answer, start):
        data = []
        name = b""
        for line in answer[start : blank.start()].splitlines():
            field, _, value = line.partition(b":")
            if field == b"data":
                data.append(value.removeprefix(b" "))
            elif field == b"event":
                name = value.removeprefix(b" ")
        start = blank.end()
        if data:
            yield start, name, b"\n".join(data)


def _parse(data: bytes, sent: bytes) -> Any:
    try:
        return wire.parse(data)
    except ValueError as error:
        problem = f"{excerpt(sent, size=200)} ({error})"
    kind = BadAnswer
    with suppress(ValueError):
        wire.loads(data)
        kind = Intact
    raise kind("an answer that is not JSON", problem)


def error_message(answer: bytes) -> str:
    """The message of an OpenAI error object, or else an excerpt of the answer, on one printable line."""
    with suppress(ValueError):
        match wire.loads(answer):
            case {"error": {"message": str(message)}}:
                return excerpt(message)
    return excerpt(answer)

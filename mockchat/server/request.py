"""Read the body of a request, and find the replies recorded for it. No I/O.

Follows https://platform.openai.com/docs/api-reference/chat/create. `wire.loads` decides what is JSON. A body is read in
one of two ways, with the same result:

- in place: cut the messages out as they stand, and look them up. They are valid if a reply is recorded, since their
  bytes are the recorded ones. Only the rest of the body is parsed.
- in full: parse everything, and write the messages in wire form. With `ignore` or `match` every body is read in full.
"""

import secrets
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, NamedTuple

from mockchat.core import matching, message, wire
from mockchat.core.diagnosis import diagnose, diagnose_parameters
from mockchat.core.index import Reply, ResponseIndex
from mockchat.core.message import Message
from mockchat.server.errors import ApiError, NotRecorded

_KEY = b'"messages":'
_ARRAY = _KEY + wire.OPENING
_LAST_END = b'"}' + wire.CLOSING
_OUR_KEY = secrets.token_hex(16)  # Replaces `messages`. It is random, so no body has it.
_EMPTIED = b'"%b":[]' % _OUR_KEY.encode()
_CACHED_SIZE = 4096  # bytes
_CHOICES = range(1, 129)
_SEEDS = range(-(2**63), 2**63)
_LONGEST_MODEL = 256  # characters: each event of a stream repeats the model's name
_LONGEST_IN_PLACE = 4 * 1024 * 1024  # bytes: to compare more would hold up other clients
LONG_BODY = 131072  # bytes: and so would parsing more


class Settings(NamedTuple):
    """The parameters that matter beside the messages; `model` is JSON."""

    model: bytes
    stream: bool
    include_usage: bool
    n: int
    seed: int | None


class ChatRequest(NamedTuple):
    """A request: the replies recorded for it, its history after `ignore`, the size of its messages in bytes before."""

    replies: Sequence[Reply]
    history: bytes
    size: int
    settings: Settings


def read_request(body: bytes, index: ResponseIndex) -> ChatRequest:
    """Read a body. Raises `NotRecorded` and other `ApiError`s: 413 for too many values, 400 for what else is wrong."""
    return in_place(body, index) or in_full(body, index)


def in_place(body: bytes, index: ResponseIndex) -> ChatRequest | None:
    """Read a request in wire form for which a reply is recorded; None for any other, valid or not."""
    start = body.find(_KEY)
    if index.ignore or index.match or len(body) > _LONGEST_IN_PLACE or not body.startswith(_ARRAY, start):
        return None
    end = body.rfind(_LAST_END) + len(_LAST_END)
    history = body[start + len(_ARRAY) : end - len(wire.CLOSING)]
    replies = index.replies(history)
    if not (replies and history and wire.is_plain(history)):
        return None
    around = body[:start] + _EMPTIED + body[end:]
    if len(around) > LONG_BODY:
        return None
    settings = _known_around(around) if len(around) < _CACHED_SIZE else _read_around(around)
    return ChatRequest(replies, history, end - start - len(_KEY), settings) if settings else None


def _read_around(around: bytes) -> Settings | None:
    """The settings beside `_EMPTIED`. None for a wrong body, and where the array was nested in it, or given twice."""
    with suppress(ValueError, ApiError):
        parameters = wire.loads(around)
        if isinstance(parameters, dict) and _OUR_KEY in parameters and "messages" not in parameters:
            return read_settings(parameters)
    return None


_known_around = lru_cache(maxsize=256)(_read_around)  # A client's settings rarely change.


def in_full(body: bytes, index: ResponseIndex) -> ChatRequest:
    """Read a request in any spelling. Raises like `read_request`."""
    if wire.has_too_many_values(body):
        raise ApiError(413, f"The request body has more than {wire.MOST_VALUES:,} brackets, braces and commas")
    try:
        parameters = wire.loads(body)
    except ValueError as error:
        raise ApiError(400, f"The request body is not JSON: {error}") from None
    if not isinstance(parameters, dict):
        raise ApiError(400, "The request body must be a JSON object with messages")
    given = parameters.get("messages")
    if not isinstance(given, list):
        problem = "is missing" if given is None else "must be an array"
        raise ApiError(400, f"messages {problem}: send the history as a list of role and content", param="messages")
    numbers: Sequence[int] = range(len(given))
    sent = message.join_texts(given)
    if sent is None:
        read = [_read_message(each, f"messages[{number}]") for number, each in enumerate(given)]
        numbers, ordered, _ = zip(*message.in_order(read), strict=True)
        sent = wire.join(ordered)
    settings = read_settings(parameters)
    history = index.compared(sent)
    replies = index.replies(history)
    if not replies:
        raise NotRecorded(partial(diagnose, index, history, numbers), history)
    if index.match:
        try:
            alike = matching.matching(replies, parameters, index.match)
        except ValueError as error:
            raise ApiError(400, f"{' or '.join(index.match)} {error}") from None
        if not alike:
            raise NotRecorded(partial(diagnose_parameters, replies, parameters, index.match), history)
        replies = alike
    return ChatRequest(replies, history, wire.array_size(sent), settings)


def read_settings(parameters: dict[str, Any]) -> Settings:
    """The settings in a request's parameters. Raises `ApiError` for a wrong type or range."""
    options = _parameter(parameters, "stream_options", dict, "an object") or {}
    model = _parameter(parameters, "model", str, "a string", "mockchat")
    if len(model) > _LONGEST_MODEL:
        raise ApiError(400, f"model must be a string of at most {_LONGEST_MODEL} characters", param="model")
    return Settings(
        model=wire.text(model),
        stream=_parameter(parameters, "stream", bool, "a boolean", False),
        include_usage=_parameter(options, "include_usage", bool, "a boolean", False, place="stream_options."),
        n=_parameter(parameters, "n", int, "a whole number from 1 to 128", 1, _CHOICES),
        seed=_parameter(parameters, "seed", int, "a signed 64-bit integer", None, _SEEDS),
    )


def _parameter(
    given: Any, name: str, kind: type, expected: str, default: Any = None, within: range | None = None, place: str = ""
) -> Any:
    """Check a parameter's type and range; null counts as absent."""
    value = given.get(name)
    if value is None:
        return default
    if type(value) is kind and (within is None or value in within):
        return value
    raise ApiError(400, f"{place}{name} must be {expected}", param=place + name)


def _read_message(given: Any, place: str) -> Message:
    """Read a message. Raises `ApiError`, which names its place."""
    if not isinstance(given, dict):
        raise ApiError(400, f"{place} must be an object with role and content", param=place)
    try:
        return message.read(given)
    except ValueError as error:
        raise ApiError(400, f"{place}.{error}", param=f"{place}.{str(error).split()[0]}") from None

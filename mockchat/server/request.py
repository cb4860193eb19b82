"""Read the body of a request, and find the replies recorded for it. No I/O.

Follows https://platform.openai.com/docs/api-reference/chat/create. `wire.loads` decides what is JSON. A body is read in
one of two ways, with the same result:

- in place: cut the messages out as they stand, and look them up. If a reply is recorded, they are valid messages in
  wire form, since their bytes are the recorded ones. Only the rest of the body is parsed.
- in full: parse everything, and write the messages anew in wire form. So is each request read where `ignore` is set, or
  a parameter must match.
"""

import secrets
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

from mockchat.core import matching, message, wire
from mockchat.core.diagnosis import diagnose, diagnose_parameters
from mockchat.core.index import Reply, ResponseIndex
from mockchat.core.message import Message
from mockchat.server.errors import ApiError, NotRecorded

DEFAULT_MODEL = b'"mockchat"'  # As JSON.

_KEY = b'"messages":'
_ARRAY = _KEY + wire.OPENING
_LAST_END = b'"}' + wire.CLOSING
_OUR_KEY = secrets.token_hex(16)  # Replaces `messages`. It is random, so no body has it.
_EMPTIED = b'"%b":[]' % _OUR_KEY.encode()
_CACHED_SIZE = 4096  # bytes
_LONGEST_MODEL = 256  # characters: each event of a stream repeats the model's name
_LONGEST_IN_PLACE = 4 * 1024 * 1024  # bytes: to compare more would hold up other clients
LONG_BODY = 131072  # bytes: and so would parsing more


class Settings(NamedTuple):
    """The parameters that matter beside the messages; `model` is JSON."""

    model: bytes = DEFAULT_MODEL
    stream: bool = False
    include_usage: bool = False
    n: int = 1
    seed: int | None = None


class ChatRequest(NamedTuple):
    """A request: the replies recorded for it, its history as it was compared, its size in bytes as sent, settings."""

    replies: Sequence[Reply]
    history: bytes
    size: int
    settings: Settings


def read_request(body: bytes, index: ResponseIndex) -> ChatRequest:
    """Read the body of `POST /v1/chat/completions`.

    Raises `ApiError`: 400 for what is not JSON, for bad messages or parameters, 413 for too many values;
    and `NotRecorded` if no reply is recorded.
    """
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
    """The settings in a body whose messages were replaced by `_EMPTIED`.

    None if the body is not JSON, or these were not its messages: they may be nested in it, or given twice.
    """
    try:
        parameters = wire.loads(around)
    except ValueError:
        return None
    whole = isinstance(parameters, dict) and _OUR_KEY in parameters and "messages" not in parameters
    return read_settings(parameters) if whole else None


_known_around = lru_cache(maxsize=256)(_read_around)  # A client's settings rarely change.


def in_full(body: bytes, index: ResponseIndex) -> ChatRequest:
    """Read a request in any spelling. Raises like `read_request`."""
    if wire.has_too_many_values(body):
        most = f"{wire.MOST_VALUES:,} brackets, braces and commas"
        raise ApiError(413, f"The request body has more than the {most} that this server reads")
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
        replies = _matching(replies, parameters, index.match, history)
    return ChatRequest(replies, history, wire.array_size(sent), settings)


def _matching(
    replies: Sequence[Reply], parameters: dict[str, Any], names: Sequence[str], history: bytes
) -> Sequence[Reply]:
    try:
        alike = matching.matching(replies, parameters, names)
    except ValueError as error:
        raise ApiError(400, f"{' or '.join(names)} {error}") from None
    if not alike:
        raise NotRecorded(partial(diagnose_parameters, replies, parameters, names), history)
    return alike


def read_settings(parameters: dict[str, Any]) -> Settings:
    """The settings in a request's parameters. Raises `ApiError` for a wrong type or range."""
    options = _parameter(parameters, "stream_options", dict, "an object") or {}
    include_usage = _parameter(options, "include_usage", bool, "a boolean", "stream_options.")
    model = _parameter(parameters, "model", str, "a string")
    if model is not None and len(model) > _LONGEST_MODEL:
        raise ApiError(400, f"model must be a string of at most {_LONGEST_MODEL} characters", param="model")
    n = _parameter(parameters, "n", int, "a whole number from 1 to 128", least=1, most=128)
    return Settings(
        model=DEFAULT_MODEL if model is None else wire.text(model),
        stream=_parameter(parameters, "stream", bool, "a boolean") or False,
        include_usage=include_usage or False,
        n=1 if n is None else n,
        seed=_parameter(parameters, "seed", int, "a signed 64-bit integer", least=-(2**63), most=2**63 - 1),
    )


def _parameter(
    parameters: dict[str, Any], name: str, kind: type, expected: str, place: str = "", least: int = 0, most: int = 0
) -> Any:
    """Check a parameter's type, and the range of a number; null counts as absent."""
    value = parameters.get(name)
    right = value is None or type(value) is kind
    if right and (kind is not int or value is None or least <= value <= most):
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

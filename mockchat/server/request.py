"""The body of a request: what is asked, and which replies are recorded for it. No I/O.

Follows https://platform.openai.com/docs/api-reference/chat/create. A request is anything that `ujson.loads` accepts and
that has usable `messages`; there are three ways to read one, and they are the same function of the body:

- in place: an array in wire form that is recorded is compared with the recordings as it stands there;
- in part: messages in a common spelling are followed along the recordings, as far as they are recorded, and only what
  is left of the body is parsed;
- in full: everything is parsed, and the messages are turned into wire form. So is every request where something is to
  be ignored.
"""

import secrets
from functools import lru_cache
from typing import Any, NamedTuple

import ujson

from mockchat.core import message, spelling, wire
from mockchat.core.index import Reply, ResponseIndex
from mockchat.core.message import Message
from mockchat.server.errors import ApiError, NotRecorded

DEFAULT_MODEL = b'"mockchat"'  # As JSON.

_KEY = b'"messages":'
_ARRAY = _KEY + wire.OPENING
_CACHED_SIZE = 4096  # bytes
_LONGEST_MODEL = 256  # characters: each event of a stream repeats the model's name
LONG_BODY = 131072  # bytes: others should not have to wait until it is parsed,
_LONGEST_IN_PLACE = 4 * 1024 * 1024  # bytes: nor until it is compared


class Settings(NamedTuple):
    """The parameters that matter beside the messages; `model` is a JSON string."""

    model: bytes = DEFAULT_MODEL
    stream: bool = False
    include_usage: bool = False
    n: int = 1
    seed: int | None = None


class ChatRequest(NamedTuple):
    """What was asked: the replies recorded after the history, its size in wire form and its prefix, the settings."""

    replies: list[Reply]
    history_size: int
    prefix: int
    settings: Settings


def read_request(body: bytes, index: ResponseIndex) -> ChatRequest:
    """Read the body of `POST /v1/chat/completions`.

    Raises `ApiError` 400 where it is not JSON, has no usable messages or a parameter of the wrong type or range, 413
    where it has too many values, and `NotRecorded` where no reply is recorded.
    """
    if wire.has_too_many_values(body):
        raise ApiError(413, f"The request body has more than the {wire.MOST_VALUES} JSON values that this server reads")
    if index.ignore is not None:
        return in_full(body, index)
    return in_place(body, index) or in_part(body, index) or in_full(body, index)


def is_in_place(body: bytes, index: ResponseIndex) -> bool:
    """Whether a long body is read soon: its messages in place, and not much beside them."""
    start = body.find(_ARRAY) if len(body) < _LONGEST_IN_PLACE and index.ignore is None else -1
    if start < 0:
        return False
    _, end, to_the_end = index.walk(body, start + len(_ARRAY))
    return to_the_end and len(body) - (end - start) < LONG_BODY


def read_to_the_end(body: bytes, index: ResponseIndex) -> ChatRequest:
    """The same, and what there is to say of a history that is not recorded is found out too."""
    try:
        return read_request(body, index)
    except NotRecorded as error:
        error.diagnosis()
        raise


def in_place(body: bytes, index: ResponseIndex) -> ChatRequest | None:
    """Read a request whose messages are in wire form and have a recorded reply; None for any other, good or bad."""
    start = body.find(_ARRAY)
    if start < 0:
        return None
    prefix, end, to_the_end = index.walk(body, start + len(_ARRAY))
    if not to_the_end:
        return None
    around = _around(body[:start], b"[]" + body[end:])
    replies = index.replies(prefix)
    return ChatRequest(replies, end - start - len(_KEY), prefix, around[0]) if around and replies else None


def in_part(body: bytes, index: ResponseIndex) -> ChatRequest | None:
    """Read a request whose messages have a common spelling; of these, only what is not recorded is decoded.

    None for any other request, good or bad; raises as `read_request` does.
    """
    walk = spelling.walk(body, index)
    if walk is None:
        return None
    around = _around(walk.before, walk.rest)
    if around is None:
        return None
    settings, others = around
    followed = len(walk.read)
    ordered = message.in_order([*walk.read, *others])[followed:] if others else []
    left = [in_wire_form for _, in_wire_form, _ in ordered]
    prefix, known = index.find(left, walk.prefix)
    replies = index.replies(prefix) if known == len(left) else []
    if not replies:
        history = walk.messages()
        at_first = len(history) - followed
        numbers = [*range(len(history)), *[at_first + number for number, _, _ in ordered]]
        raise NotRecorded(index, [*history, *left], prefix, len(history) + known, numbers)
    parts = [walk.in_place, *walk.in_order, *left] if walk.in_place else [*walk.in_order, *left]
    return ChatRequest(replies, wire.joined_size(parts), prefix, settings)


def _around(before: bytes, rest: bytes) -> tuple[Settings, list[Message]] | None:
    read = _read_around if len(before) + len(rest) > _CACHED_SIZE else _known_around
    return read(before, rest)


def _read_around(before: bytes, rest: bytes) -> tuple[Settings, list[Message]] | None:
    """Read what a walk has left of a body: the settings, and the other messages.

    None where the messages are not those of the body itself (they may be nested in it, or come twice), where one of the
    others is none, and where the body is no JSON.
    """
    parameters: dict[str, Any] = {}
    try:
        if before != b"{":
            # The object so far must be whole once closed, and not empty: `{,` is no beginning.
            parameters = ujson.loads(before[:-1] + b"}")
            if not (before.endswith(b",") and before.startswith(b"{") and parameters):
                return None
        following: dict[str, Any] = ujson.loads(b'{"%b":%b' % (_OUR_KEY.encode(), rest))
        others = [message.read(given) for given in following[_OUR_KEY]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return None if "messages" in following else (read_settings(parameters | following), others)


_OUR_KEY = secrets.token_hex(16)  # In place of `messages`. It is random, so that no body has it too.
_known_around = lru_cache(maxsize=256)(_read_around)  # A client sends the same settings always.


def in_full(body: bytes, index: ResponseIndex) -> ChatRequest:
    """Read a request in any spelling; raises as `read_request` does."""
    try:
        parameters = ujson.loads(body)
    except ValueError as error:
        raise ApiError(400, f"The request body is not JSON: {error}") from None
    if not isinstance(parameters, dict):
        raise ApiError(400, "The request body must be a JSON object with messages")
    given = parameters.get("messages")
    if not isinstance(given, list):
        problem = "is missing" if given is None else "must be an array"
        raise ApiError(400, f"messages {problem}: send the history as a list of role and content", param="messages")
    read = [_read_message(each, f"messages[{number}]") for number, each in enumerate(given)]
    settings = read_settings(parameters)
    ordered = message.in_order(read)
    messages = [in_wire_form for _, in_wire_form, _ in ordered]
    compared = index.compared(messages)
    prefix, known = index.find(compared)
    replies = index.replies(prefix) if known == len(messages) else []
    if not replies:
        raise NotRecorded(index, compared, prefix, known, [number for number, _, _ in ordered])
    return ChatRequest(replies, wire.joined_size(messages), prefix, settings)


def read_settings(parameters: dict[str, Any]) -> Settings:
    """The settings in a request's parameters; raises `ApiError` where one has the wrong type or range."""
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
    """A parameter of the type that it must have; null counts as absent. `least` and `most` are those of a number."""
    value = parameters.get(name)
    right = value is None or type(value) is kind
    if right and (kind is not int or value is None or least <= value <= most):
        return value
    raise ApiError(400, f"{place}{name} must be {expected}", param=place + name)


def _read_message(given: Any, place: str) -> Message:
    """A message in any spelling; what is none is refused."""
    if not isinstance(given, dict):
        raise ApiError(400, f"{place} must be an object with role and content", param=place)
    try:
        return message.read(given)
    except ValueError as error:
        raise ApiError(400, f"{place}.{error}", param=f"{place}.{str(error).split()[0]}") from None

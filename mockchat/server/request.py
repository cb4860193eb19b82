"""The body of a request: what is asked, and which replies are recorded for it. No I/O.

Follows https://platform.openai.com/docs/api-reference/chat/create. A request is anything that `ujson.loads` accepts and
that has usable `messages`; there are two ways to read one, and they are the same function of the body:

- the shortcut: an array in wire form that is recorded is walked along the recordings, and only what stands around it
  is parsed;
- the general way: everything is parsed, and the messages are turned into wire form.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import ujson

from mockchat.core import wire
from mockchat.core.index import Reply, ResponseIndex
from mockchat.server.errors import ApiError, NotRecorded

DEFAULT_MODEL = b'"mockchat"'  # As JSON.

_MESSAGES_KEY = b'"messages":'
_ARRAY = _MESSAGES_KEY + wire.OPENING
_CACHED_SIZE = 1024  # bytes


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

    Raises `ApiError` 400 where it is not JSON, has no usable messages or a parameter of the wrong type or range, and
    `NotRecorded` where no reply is recorded.
    """
    return shortcut(body, index) or general(body, index)


def shortcut(body: bytes, index: ResponseIndex) -> ChatRequest | None:
    """Read a request whose messages are in wire form and have a recorded reply; None for any other, good or bad."""
    start = body.find(_ARRAY)
    if start < 0:
        return None
    prefix, end, to_the_end = index.walk(body, start + len(_ARRAY))
    if not to_the_end:
        return None
    replies = index.replies(prefix)
    before, after = body[:start], body[end:]
    read = _settings_around if len(before) + len(after) > _CACHED_SIZE else _known_settings_around
    settings = read(before, after)
    if settings is None or not replies:
        return None
    return ChatRequest(replies, end - start - len(_MESSAGES_KEY), prefix, settings)


def _settings_around(before: bytes, after: bytes) -> Settings | None:
    """The settings before and after the messages; None where these are not the object's own, last `messages`."""
    parameters: dict[str, Any] = {}
    try:
        if before != b"{":
            # The object so far must be whole once closed, and not empty: `{,` is no beginning.
            parameters = ujson.loads(before[:-1] + b"}")
            if not (before.endswith(b",") and before.startswith(b"{") and parameters):
                return None
        # An empty array stands for the messages; a number could run into what follows.
        following: dict[str, Any] = ujson.loads(b'{"":[]' + after)
    except ValueError:
        return None
    return None if "messages" in following else _settings(parameters | following)


_known_settings_around = lru_cache(maxsize=256)(_settings_around)  # A client sends the same settings always.


def general(body: bytes, index: ResponseIndex) -> ChatRequest:
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
    messages = []
    for number, message in enumerate(given):
        try:
            messages.append(wire.message(message["role"], message["content"]))
        except (KeyError, TypeError, AttributeError):
            messages.append(_unusual_message(message, f"messages[{number}]"))
    settings = _settings(parameters)
    prefix, known = index.find(messages)
    replies = index.replies(prefix) if known == len(messages) else []
    if not replies:
        raise NotRecorded(index, messages, prefix, known)
    return ChatRequest(replies, wire.joined_size(messages), prefix, settings)


def _settings(parameters: dict[str, Any]) -> Settings:
    options = _parameter(parameters, "stream_options", dict, "an object") or {}
    include_usage = _parameter(options, "include_usage", bool, "a boolean", "stream_options.")
    model = _parameter(parameters, "model", str, "a string")
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


def _unusual_message(message: Any, place: str) -> bytes:
    """A message whose role is written otherwise or whose content is no string; anything else is refused."""
    if not isinstance(message, dict):
        raise ApiError(400, f"{place} must be an object with role and content", param=place)
    name = message.get("role")
    role = wire.role(name) if isinstance(name, str) else None
    if role is None:
        expected = ", ".join(dict.fromkeys(wire.ROLES.values()))
        raise ApiError(400, f"{place}.role must be one of {expected}", param=f"{place}.role")
    if "content" not in message and role != "assistant":
        raise ApiError(400, f"{place}.content is missing", param=f"{place}.content")
    try:
        return wire.message(role, wire.plain_text(message.get("content")))
    except ValueError as error:
        raise ApiError(400, f"{place}.{error}", param=f"{place}.{str(error).split()[0]}") from None

"""Chat Completions as bytes: read a request, write an answer or an error. No I/O, no clock, no sockets.

Follows https://platform.openai.com/docs/api-reference/chat/create. A request is anything that `ujson.loads` accepts and
that has usable `messages`; there are two ways to read one, and they are the same function of the body:

- the shortcut: an array in wire form that is recorded is walked along the recordings, and only what stands around it
  is parsed;
- the general way: everything is parsed, and the messages are turned into wire form.
"""

import random
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from http import HTTPStatus
from itertools import chain, islice, zip_longest
from typing import Any, NamedTuple

import ujson

from mockchat.core import wire
from mockchat.core.diagnosis import diagnose
from mockchat.core.index import Reply, ResponseIndex

DEFAULT_MODEL = b'"mockchat"'  # As JSON.
NOT_RECORDED = "No valid response exists for the given request"

_MESSAGES_KEY = b'"messages":'
_ARRAY = _MESSAGES_KEY + wire.OPENING
_CACHED_SIZE = 1024  # bytes

_ERROR_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer other than 200, as OpenAI's error object.

    `param` names the parameter that is wrong, `code` is for programs; both may be None.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    def body(self) -> bytes:
        """The error object: `{"error": {"message", "type", "param", "code"}}`."""
        kind = _ERROR_TYPES.get(self.status) or ("server_error" if self.status >= 500 else "invalid_request_error")
        fields = (wire.text(str(self)), wire.text(kind), _nullable(self.param), _nullable(self.code))
        return b'{"error":{"message":%b,"type":%b,"param":%b,"code":%b}}' % fields


class NotRecorded(ApiError):
    """404: no recording has this history, or none goes on with a reply. As an object it says where and how.

    `messages` is the history, in wire form.
    """

    def __init__(self, index: ResponseIndex, messages: list[bytes], prefix: int, known: int) -> None:
        super().__init__(HTTPStatus.NOT_FOUND, NOT_RECORDED, code="no_recorded_response")
        self.messages = messages
        self._place = index, prefix, known

    def body(self) -> bytes:
        """The error object, with a diagnosis that costs nothing where only the plain text is sent."""
        index, prefix, known = self._place
        found = diagnose(index, self.messages, prefix, known)
        return ApiError(self.status, f"{self}: {found.text}", param=found.param, code=self.code).body()


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


def choose(request: ChatRequest, chance: Callable[[], float] = random.random) -> list[Reply]:
    """`n` of the recorded replies, drawn by chance (from 0 to 1): always the same ones for the same `seed`."""
    replies, settings = request.replies, request.settings
    if len(replies) == 1:
        return replies * settings.n
    if settings.seed is not None:
        chance = random.Random(settings.seed).random
    return [replies[int(chance() * len(replies))] for _ in range(settings.n)]


def completion(request: ChatRequest, created: int, replies: list[Reply] | None = None) -> bytes:
    """The answer to a request: a `chat.completion` object; `created` is the Unix time in seconds.

    `replies` are those that `choose` drew, if it has been asked. The top-level `message` is the answer's shape in the
    original program.
    """
    replies = replies or choose(request)
    choices = [_CHOICE % (number, reply.message) for number, reply in enumerate(replies)]
    return _COMPLETION % (
        replies[0].conversation_id,
        created,
        request.settings.model,
        b",".join(choices),
        _usage(request, replies),
        replies[0].message[len(wire.ASSISTANT) :],
    )


_CHOICE = b'{"index":%d,"message":{"role":"%b},"logprobs":null,"finish_reason":"stop"}'
_COMPLETION = (
    b'{"id":%b,"object":"chat.completion","created":%d,"model":%b,"choices":[%b],"usage":%b,'
    b'"message":{"role":"Assistant"%b}}'
)


def stream(request: ChatRequest, created: int, replies: list[Reply] | None = None) -> Iterator[bytes]:
    """The answer to a request as server-sent events, as many at a time as one write should carry.

    Follows https://platform.openai.com/docs/api-reference/chat-streaming: `chat.completion.chunk` objects, the role
    first, then the reply in pieces like tokens, then the reason why it ended, the usage if asked for, and `[DONE]`.
    Several choices are interleaved. The arguments are those of `completion`. The last block ends with `STREAM_END`.
    """
    block, size = [], 0
    beginning, pieces, end = _events(request, created, replies or choose(request))
    for part in chain((beginning,), pieces):
        block.append(part)
        size += len(part)
        if size >= _WRITE_SIZE:
            yield b"".join(block)
            block, size = [], 0
    yield b"".join([*block, end])


def steps(request: ChatRequest, created: int, replies: list[Reply]) -> Iterator[bytes]:
    """The same stream as a model writes it: one piece (of each choice) at a time, `count_steps` in all.

    What comes before the first piece goes with it, and what comes after the last with that.
    """
    beginning, pieces, end = _events(request, created, replies, one_at_a_time=True)
    step = beginning + next(pieces, b"")
    for piece in pieces:
        yield step
        step = piece
    yield step + end


def count_steps(replies: list[Reply]) -> int:
    """The number of pieces of the longest reply, and 1 if that is empty."""
    return max(1, *[sum(map(len, _pieces(reply.message, _PIECES_AT_ONCE))) for reply in replies])


STREAM_END = b"data: [DONE]\n\n"


def _events(
    request: ChatRequest, created: int, replies: list[Reply], one_at_a_time: bool = False
) -> tuple[bytes, Iterator[bytes], bytes]:
    """What comes first, the pieces (together where they need not be apart), and what comes last."""
    about = replies[0].conversation_id, created, request.settings.model
    before = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"choices":[' % about
    after = b'],"usage":null}\n\n' if request.settings.include_usage else b"]}\n\n"

    def for_each(delta: bytes) -> list[bytes]:
        return [before + delta % number for number in range(len(replies))]

    def together(some_at_a_time: Iterator[list[bytes]], opening: bytes) -> Iterator[bytes]:
        joint = closing + opening
        for some in some_at_a_time:
            yield from (opening, joint.join(some), closing)

    def apart() -> Iterator[bytes]:
        for row in zip_longest(*map(chain.from_iterable, pieces)):
            yield b"".join([openings[n] + piece + closing for n, piece in enumerate(row) if piece is not None])

    openings, closing = for_each(_PIECE_OPENING), _PIECE_CLOSING + after
    pieces = [_pieces(reply.message, 8 if one_at_a_time else _PIECES_AT_ONCE) for reply in replies]
    end = [event + after for event in for_each(_LAST_DELTA)]
    if request.settings.include_usage:
        end.append(before + b'],"usage":%b}\n\n' % _usage(request, replies))
    return (
        b"".join([event + after for event in for_each(_FIRST_DELTA)]),
        apart() if one_at_a_time or len(replies) > 1 else together(pieces[0], openings[0]),
        b"".join([*end, STREAM_END]),
    )


def _pieces(message: bytes, at_once: int) -> Iterator[list[bytes]]:
    """The pieces of a reply, some at a time: all of a long one's would take many times its memory."""
    start, end = len(_BEFORE_REPLY) + 1, len(message) - 1
    if 0 < end - start < 32 * at_once:
        yield _PIECE.findall(message, start, end)
        return
    found = _PIECE.finditer(message, start, end)
    while some := [piece[0] for piece in islice(found, at_once)]:
        yield some


# A piece is a word with the space before it, or a part of a long one; an escape or a character is never cut.
_PIECE = re.compile(rb" ?[^ \\\x80-\xff]{1,16}|\\(?:u[0-9a-f]{4}|.)| ?(?:[\xc0-\xff][\x80-\xbf]+){1,8}| +", re.DOTALL)
_PIECES_AT_ONCE = 512
_WRITE_SIZE = 65536  # bytes
_FIRST_DELTA = (
    b'{"index":%d,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}'
)
_PIECE_OPENING = b'{"index":%d,"delta":{"content":"'
_PIECE_CLOSING = b'"},"logprobs":null,"finish_reason":null}'
_LAST_DELTA = b'{"index":%d,"delta":{},"logprobs":null,"finish_reason":"stop"}'


def _usage(request: ChatRequest, replies: list[Reply]) -> bytes:
    """An estimate that is the same everywhere: four bytes of the wire form a token, rounded up.

    Of the messages' array for the prompt, and of each reply's JSON string for the completion; never 0.
    """
    prompt = _tokens(request.history_size)
    completed = 0
    for reply in replies:
        completed += _tokens(len(reply.message) - len(_BEFORE_REPLY))
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (prompt, completed, prompt + completed)


_BEFORE_REPLY = wire.ASSISTANT + b',"content":'


def _tokens(size: int) -> int:
    return -(-size // 4)


def _nullable(value: str | None) -> bytes:
    return b"null" if value is None else wire.text(value)

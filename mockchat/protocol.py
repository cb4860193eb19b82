"""Chat Completions as bytes: read a request, write an answer or an error. No I/O, no clock, no sockets.

Follows https://platform.openai.com/docs/api-reference/chat/create. A request is anything that `ujson.loads` accepts and
that has usable `messages`; there are two ways to read one, and they are the same function of the body:

- the shortcut: an array in wire form that is recorded is walked along the recordings, and only what stands around it
  is parsed;
- the general way: everything is parsed, and the messages are turned into wire form.
"""

import random
from http import HTTPStatus
from typing import Any, NamedTuple

import ujson

from mockchat import wire
from mockchat.index import Reply, ResponseIndex

DEFAULT_MODEL = "mockchat"
NOT_RECORDED = "No valid response exists for the given request"

_MESSAGES_KEY = b'"messages":'
_ARRAY = _MESSAGES_KEY + wire.OPENING

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
    """404: no recording has this history, or none goes on with a reply."""

    def __init__(self) -> None:
        super().__init__(HTTPStatus.NOT_FOUND, NOT_RECORDED, param="messages", code="no_recorded_response")


class ChatRequest(NamedTuple):
    """What was asked: the replies recorded after the history, the history's size in wire form, other parameters."""

    replies: list[Reply]
    history_size: int
    parameters: dict[str, Any]


def read_request(body: bytes, index: ResponseIndex) -> ChatRequest:
    """Read the body of `POST /v1/chat/completions`.

    Raises `ApiError` 400 where it is not JSON or has no usable messages, `NotRecorded` where no reply is recorded.
    """
    request = shortcut(body, index) or general(body, index)
    if not request.replies:
        raise NotRecorded
    return request


def shortcut(body: bytes, index: ResponseIndex) -> ChatRequest | None:
    """Read a request whose messages are in wire form and recorded; None for any other, good or bad."""
    start = body.find(_ARRAY)
    if start < 0:
        return None
    found = index.walk(body, start + len(_ARRAY))
    if found is None:
        return None
    prefix, end = found
    parameters = _around(body[:start], body[end:])
    if parameters is None:
        return None
    return ChatRequest(index.replies(prefix), end - start - len(_MESSAGES_KEY), parameters)


def _around(before: bytes, after: bytes) -> dict[str, Any] | None:
    """The parameters before and after the messages; None where these are not the object's own, last `messages`."""
    if before == b"{" and after == b"}":
        return {}
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
    if "messages" in following:
        return None
    parameters.pop("messages", None)
    return parameters | following


def general(body: bytes, index: ResponseIndex) -> ChatRequest:
    """Read a request in any spelling; raises `ApiError` 400."""
    try:
        parameters = ujson.loads(body)
    except ValueError as error:
        raise ApiError(400, f"The request body is not JSON: {error}") from None
    if not isinstance(parameters, dict):
        raise ApiError(400, "The request body must be a JSON object with messages")
    given = parameters.pop("messages", None)
    if not isinstance(given, list):
        problem = "is missing" if given is None else "must be an array"
        raise ApiError(400, f"messages {problem}: send the history as a list of role and content", param="messages")
    messages = [_message(message, f"messages[{number}]") for number, message in enumerate(given)]
    prefix, known = index.find(messages)
    replies = index.replies(prefix) if known == len(messages) else []
    return ChatRequest(replies, len(wire.join(messages)), parameters)


def _message(message: Any, place: str) -> bytes:
    if not isinstance(message, dict):
        raise ApiError(400, f"{place} must be an object with role and content", param=place)
    name = message.get("role")
    role = wire.role(name) if isinstance(name, str) else None
    if role is None:
        expected = ", ".join(dict.fromkeys(wire.ROLES.values()))
        raise ApiError(400, f"{place}.role must be one of {expected}", param=f"{place}.role")
    if "content" not in message and role != "assistant":
        raise ApiError(400, f"{place}.content is missing", param=f"{place}.content")
    return wire.message(role, _content(message.get("content"), f"{place}.content"))


def _content(content: Any, place: str) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if not isinstance(content, list):
        raise ApiError(400, f"{place} must be a string, a list of text parts, or null", param=place)
    texts = []
    for number, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text":
            raise ApiError(
                400, f"{place}[{number}] must be a part of type text: only text is recorded", param=f"{place}[{number}]"
            )
        if not isinstance(part.get("text"), str):
            raise ApiError(400, f"{place}[{number}].text must be a string", param=f"{place}[{number}].text")
        texts.append(part["text"])
    return "".join(texts)


def choose(request: ChatRequest) -> Reply:
    """One of the recorded replies: always the same one for the same `seed`, otherwise by chance."""
    if len(request.replies) == 1:
        return request.replies[0]
    seed = request.parameters.get("seed")
    chance = random.Random(seed).random() if isinstance(seed, int) else random.random()
    return request.replies[int(chance * len(request.replies))]


def completion(request: ChatRequest, created: int) -> bytes:
    """The answer to a request: a `chat.completion` object; `created` is the Unix time in seconds.

    `usage` is an estimate that is the same everywhere: four bytes of the wire form a token, rounded up, of the
    messages' array for the prompt and of the reply's JSON string for the completion. The top-level `message` is the
    answer's shape in the original program.
    """
    message, conversation_id = choose(request)
    model = request.parameters.get("model")
    prompt_tokens = _tokens(request.history_size)
    completion_tokens = _tokens(len(message) - len(_BEFORE_REPLY))
    return _COMPLETION % (
        conversation_id,
        created,
        wire.text(model if isinstance(model, str) else DEFAULT_MODEL),
        message,
        prompt_tokens,
        completion_tokens,
        prompt_tokens + completion_tokens,
        message[len(wire.ASSISTANT) :],
    )


_BEFORE_REPLY = wire.ASSISTANT + b',"content":'
_COMPLETION = (
    b'{"id":%b,"object":"chat.completion","created":%d,"model":%b,'
    b'"choices":[{"index":0,"message":{"role":"%b},"logprobs":null,"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d},'
    b'"message":{"role":"Assistant"%b}}'
)


def _tokens(size: int) -> int:
    return -(-size // 4)


def _nullable(value: str | None) -> bytes:
    return b"null" if value is None else wire.text(value)

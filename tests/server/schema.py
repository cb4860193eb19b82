"""What OpenAI publishes about the answers of the API, and what is wrong with an answer by it.

There are two opinions on each: the API's schema, written down here as JSON schema from
https://platform.openai.com/docs/api-reference/chat/object, https://platform.openai.com/docs/api-reference/chat-streaming
and https://github.com/openai/openai-openapi; and the models of OpenAI's Python SDK, which are held to the letter here.
What a schema does not name may be there too. What holds between the chunks of a stream is said by the reference's text.
"""

import json
from typing import Any

import jsonschema
import pydantic
from openai.types import ErrorObject
from openai.types.chat import ChatCompletion, ChatCompletionChunk

FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter", "function_call")

_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_NUMBER = {"type": "integer"}
_NULL = {"type": "null"}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_CALLED = {"name": _TEXT, "arguments": _TEXT}
_CALLED_CUSTOM = {"name": _TEXT, "input": _TEXT}
_TOOL_CALL = {
    "anyOf": [
        _object({"id": _TEXT, "type": {"const": "function"}, "function": _object(_CALLED)}),
        _object({"id": _TEXT, "type": {"const": "custom"}, "custom": _object(_CALLED_CUSTOM)}),
    ]
}
_CITATION = _object({"start_index": _NUMBER, "end_index": _NUMBER, "url": _TEXT, "title": _TEXT})
_AUDIO = _object({"id": _TEXT, "expires_at": _NUMBER, "data": _TEXT, "transcript": _TEXT})
_MESSAGE = _object(
    {"role": {"const": "assistant"}, "content": _TEXT_OR_NULL, "refusal": _TEXT_OR_NULL},
    {
        "tool_calls": _list(_TOOL_CALL),
        "function_call": _object(_CALLED),
        "annotations": _list(_object({"type": {"const": "url_citation"}, "url_citation": _CITATION})),
        "audio": {"anyOf": [_AUDIO, _NULL]},
    },
)
# Calls of custom tools are streamed too, although the API's schema and the SDKs name functions alone there.
_CALL_DELTA = _object(
    {"index": _NUMBER},
    {
        "id": _TEXT,
        "type": {"enum": ["function", "custom"]},
        "function": _object({}, _CALLED),
        "custom": _object({}, _CALLED_CUSTOM),
    },
)
_DELTA = _object(
    {},
    {
        "role": {"enum": ["developer", "system", "user", "assistant", "tool"]},
        "content": _TEXT_OR_NULL,
        "refusal": _TEXT_OR_NULL,
        "tool_calls": _list(_CALL_DELTA),
        "function_call": _object({}, _CALLED),
    },
)
_PROMPT_DETAILS = ("audio_tokens", "cached_tokens", "text_tokens", "image_tokens", "cache_write_tokens")
_COMPLETION_DETAILS = ("audio_tokens", "reasoning_tokens", "text_tokens")
_COMPLETION_DETAILS += ("accepted_prediction_tokens", "rejected_prediction_tokens")
_USAGE = _object(
    {"prompt_tokens": _NUMBER, "completion_tokens": _NUMBER, "total_tokens": _NUMBER},
    {
        "prompt_tokens_details": _object({}, dict.fromkeys(_PROMPT_DETAILS, _NUMBER)),
        "completion_tokens_details": _object({}, dict.fromkeys(_COMPLETION_DETAILS, _NUMBER)),
    },
)
_TOKENS = {
    "anyOf": [
        _list(_object({"token": _TEXT, "logprob": {"type": "number"}, "bytes": {}, "top_logprobs": {"type": "array"}})),
        _NULL,
    ]
}
_LOGPROBS = {"anyOf": [_object({"content": _TOKENS, "refusal": _TOKENS}), _NULL]}


def _answer(kind: str, choice: dict[str, Any], usage: dict[str, Any]) -> dict[str, Any]:
    about = {"id": _TEXT, "created": _NUMBER, "model": _TEXT, "object": {"const": kind}}
    optional = {"usage": usage, "system_fingerprint": _TEXT, "service_tier": _TEXT_OR_NULL}
    return _object({**about, "choices": _list(choice)}, optional)


_CHOICE = {"index": _NUMBER, "message": _MESSAGE, "logprobs": _LOGPROBS, "finish_reason": {"enum": FINISH_REASONS}}
_CHUNK_CHOICE = {"index": _NUMBER, "delta": _DELTA, "finish_reason": {"enum": (*FINISH_REASONS, None)}}
_ERROR = _object({"type": _TEXT, "message": _TEXT, "param": _TEXT_OR_NULL, "code": _TEXT_OR_NULL})

_COMPLETION_SCHEMA = _answer("chat.completion", _object(_CHOICE), _USAGE)
_CHUNK_SCHEMA = _answer(
    "chat.completion.chunk", _object(_CHUNK_CHOICE, {"logprobs": _LOGPROBS}), {"anyOf": [_USAGE, _NULL]}
)
_ERROR_SCHEMA = _object({"error": _ERROR})
_VALIDATORS = {
    name: jsonschema.Draft202012Validator(schema)
    for name, schema in (("completion", _COMPLETION_SCHEMA), ("chunk", _CHUNK_SCHEMA), ("error", _ERROR_SCHEMA))
}


def completion_problems(answer: Any, n: int = 1) -> list[str]:
    """What is wrong with a `chat.completion` object of `n` choices."""
    if found := [*_by_schema("completion", answer), *_by_sdk(ChatCompletion, answer)]:
        return found
    indexes = [choice["index"] for choice in answer["choices"]]
    return [] if indexes == list(range(n)) else [f"the choices have the indexes {indexes}"]


def error_problems(answer: Any) -> list[str]:
    """What is wrong with an error object."""
    return [*_by_schema("error", answer), *_by_sdk(ErrorObject, answer.get("error"))]


def stream_problems(chunks: list[Any], n: int = 1, include_usage: bool = False) -> list[str]:
    """What is wrong with the `chat.completion.chunk` objects of a stream of `n` choices."""
    found = []
    for chunk in chunks:
        found += _by_schema("chunk", chunk)
        if has_sdk_type(chunk):
            found += _by_sdk(ChatCompletionChunk, chunk)
    return found or _problems_between(chunks, n, include_usage)


def chunks_of(sent: bytes) -> list[Any]:
    """The chunks of a stream, which is nothing but these and `[DONE]`."""
    *events, done, rest = sent.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    assert all(event.startswith(b"data: {") for event in events)
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


def has_sdk_type(chunk: Any) -> bool:
    """Whether OpenAI's SDKs have a type for a chunk: for the beginning of a custom call they have none."""
    calls = [call for choice in chunk["choices"] for call in choice["delta"].get("tool_calls", ())]
    return all(call.get("type") != "custom" for call in calls)


def _by_schema(name: str, answer: Any) -> list[str]:
    return [f"schema: {error.json_path}: {error.message}" for error in _VALIDATORS[name].iter_errors(answer)]


def _by_sdk(model: type[pydantic.BaseModel], answer: Any) -> list[str]:
    try:
        model.model_validate(answer, strict=True)
    except pydantic.ValidationError as error:
        return [f"SDK: {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    return []


def _problems_between(chunks: list[Any], n: int, include_usage: bool) -> list[str]:
    """What is wrong with chunks beside each other, each of which is right by itself."""
    found = _usage_problems(chunks, include_usage)
    if len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) != 1:
        found.append("id, created and model are not the same in all chunks")
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    if {choice["index"] for choice in choices} != set(range(n)):
        found.append(f"not {n} choices")
    for number in range(n):
        found += _choice_problems([choice for choice in choices if choice["index"] == number])
    return found


def _usage_problems(chunks: list[Any], include_usage: bool) -> list[str]:
    if not include_usage:
        right = all("usage" not in chunk and chunk["choices"] for chunk in chunks)
        return [] if right else ["usage that was not asked for, or a chunk without choices"]
    *others, last = chunks
    right = all(chunk["choices"] and chunk.get("usage", 0) is None for chunk in others)
    right = right and not last["choices"] and last.get("usage") is not None
    return [] if right else ["usage is not null in all chunks but a last one without choices"]


def _choice_problems(choices: list[Any]) -> list[str]:
    """What is wrong with the parts of one choice in their order."""
    found = []
    deltas = [choice["delta"] for choice in choices]
    if ["role" in delta for delta in deltas] != [True] + [False] * (len(deltas) - 1):
        found.append("the role is not in the first delta alone")
    if [choice["finish_reason"] is not None for choice in choices] != [False] * (len(deltas) - 1) + [True]:
        found.append("finish_reason is not in the last part alone")
    return found + _call_problems([call for delta in deltas for call in delta.get("tool_calls", ())])


def _call_problems(parts: list[Any]) -> list[str]:
    """What is wrong with the parts of one choice's calls in their order."""
    found = []
    by_index: dict[int, list[Any]] = {}
    for part in parts:
        by_index.setdefault(part["index"], []).append(part)
    for index, calls in by_index.items():
        for number, call in enumerate(calls):
            there = ["id" in call, "type" in call, "name" in call.get(call.get("type"), ())]
            if there != [number == 0] * 3:
                found.append(f"id, type and name are not in the first part of call {index} alone")
    if list(by_index) != list(range(len(by_index))):
        found.append("the calls are not in the order of their index")
    return found

"""A recording of every kind that is answered in the API's shape, and the answers to it.

What a recording has that the API never says, such as another `finish_reason` or half a `usage`, is answered as it was
recorded, and is none of these.
"""

from typing import Any

from mockchat.core import wire
from mockchat.core.entries import conversation
from mockchat.core.index import Reply, ResponseIndex
from mockchat.server import completion
from mockchat.server.request import ChatRequest, read_request

CREATED = 1690198033
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
USAGE_IN_DETAIL = USAGE | {
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 2, "accepted_prediction_tokens": 0},
}
CITATION = {"start_index": 0, "end_index": 4, "url": "https://example.org/", "title": "Mars"}
AUDIO = {"id": "audio_1", "expires_at": CREATED, "data": "AAAA", "transcript": "Two."}


def function(call_id: str | None, name: str, arguments: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def custom(call_id: str, name: str, text: str) -> dict[str, Any]:
    return {"id": call_id, "type": "custom", "custom": {"name": name, "input": text}}


WEATHER = function("call_1", "weather", '{"city": "Zürich", "n": 21.50}')
# By name: the message, and what stands beside the messages.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text": ({"content": 'Two: **Phobos** and **Deimos**, a\nlittle "odd" 😀 \ud800'}, {}),
    "text with usage": ({"content": "Two."}, {"usage": USAGE}),
    "text with usage in detail": ({"content": "Two."}, {"usage": USAGE_IN_DETAIL}),
    "text without spaces": ({"content": "汉字没有空格在它们之间"}, {}),
    "text in parts": ({"content": [{"type": "text", "text": "Two"}, {"type": "text", "text": " moons"}]}, {}),
    "text cut off": ({"content": "Two: Pho"}, {"finish_reason": "length"}),
    "text filtered": ({"content": ""}, {"finish_reason": "content_filter", "usage": USAGE}),
    "text of no known end": ({"content": "Two."}, {"finish_reason": None, "usage": None}),
    "empty text": ({"content": ""}, {}),
    "null": ({"content": None, "refusal": None}, {"finish_reason": "stop"}),
    "refusal": ({"content": None, "refusal": "I can't help with that."}, {}),
    "refusal without content": ({"refusal": "No."}, {}),
    "refusal beside text": ({"content": "Well,", "refusal": "no."}, {}),
    "call": ({"content": None, "tool_calls": [WEATHER]}, {}),
    "call beside text": ({"content": "I ask.", "tool_calls": [WEATHER]}, {"finish_reason": "tool_calls"}),
    "call beside empty text": ({"content": "", "tool_calls": [WEATHER], "function_call": None}, {}),
    "call without content, id or arguments": ({"tool_calls": [function(None, "time", None)]}, {"usage": USAGE}),
    "call with an object": ({"content": None, "tool_calls": [function("call_1", "weather", {"city": "Bern"})]}, {}),
    "call of a ShareGPT file": ({"role": "function_call", "content": '{"name": "time", "arguments": {"n": 1}}'}, {}),
    "calls": ({"content": None, "tool_calls": [WEATHER, function("call_2", "time", "{}")]}, {}),
    "custom call": ({"content": None, "tool_calls": [custom("call_1", "shell", "ls -l | wc")]}, {}),
    "custom call beside another": ({"content": None, "tool_calls": [WEATHER, custom("call_2", "shell", "")]}, {}),
    "function call": ({"content": None, "function_call": {"name": "time", "arguments": '{"city": "Bern"}'}}, {}),
    "function call without arguments": ({"content": None, "function_call": {"name": "time"}}, {}),
    "reasoning": ({"content": "Two.", "reasoning_content": "Mars has two moons."}, {}),
    "reasoning beside a call": ({"reasoning": "I must ask.", "content": None, "tool_calls": [WEATHER]}, {}),
    "annotations": ({"content": "Two", "annotations": [{"type": "url_citation", "url_citation": CITATION}]}, {}),
    "no annotations and audio": ({"content": "Two", "annotations": [], "audio": None, "tool_calls": []}, {}),
    "audio": ({"content": None, "audio": AUDIO}, {}),
    "further keys": ({"content": "Two", "provider": {"name": "x", "cost": 0.5}, "name": "x"}, {}),
    "long text": ({"content": "a word " * 140}, {}),
}


def indexed(kinds: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> ResponseIndex:
    """Recordings in which each kind is the reply to its name, and all of them are replies to `any`."""
    entries = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant"} | message], **beside}
        for kind, (message, beside) in kinds.items()
        for asked in (kind, "any")
    ]
    return ResponseIndex([conversation(entry, f"chat-{number}") for number, entry in enumerate(entries)])


INDEX = indexed(KINDS)


def ask(content: str, index: ResponseIndex = INDEX, **parameters: Any) -> ChatRequest:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": content}], **parameters}
    return read_request(wire.json_of(body), index)


def whole(request: ChatRequest) -> bytes:
    """The plain answer; of several replies, the first ones are drawn."""
    return b"".join(completion.whole(request, CREATED, drawn(request)))


def streamed(request: ChatRequest) -> bytes:
    """The same answer as a stream."""
    return b"".join(completion.stream(request, CREATED, drawn(request)))


def drawn(request: ChatRequest) -> list[Reply]:
    n = request.settings.n
    return (list(request.replies) * n)[:n]

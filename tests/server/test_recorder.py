import json
from typing import Any

import pytest

from mockchat.core.answer import BadAnswer
from mockchat.core.entries import Conversation
from mockchat.core.message import as_object
from mockchat.server.recorder import NotRecordable, conversation, read_answer


def whole(message: Any = None, finish_reason: Any = "stop", **changes: Any) -> bytes:
    message = {"role": "assistant", "content": "hello", "refusal": None, "annotations": []} | (message or {})
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    return json.dumps({"id": "x", "object": "chat.completion", "choices": [choice]} | changes).encode()


def streamed(*deltas: Any, finish_reason: Any = "stop", end: str = "data: [DONE]\n\n") -> bytes:
    chunks: list[Any] = [{"choices": [], "prompt_filter_results": []}]
    chunks += [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}]}]
    chunks += [{"choices": [], "usage": {"total_tokens": 3}}]
    return "".join([f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]).encode() + end.encode()


# What is recorded


@pytest.mark.parametrize("content", ["hello", "", 'é "\n😀 \ud800'])
def test_a_reply_is_read_from_either_kind_of_answer(content: str) -> None:
    assert read_answer(whole({"content": content}), streamed=False).content == content
    pieces = [{"role": "assistant", "content": "", "refusal": None}, *({"content": piece} for piece in content)]
    assert read_answer(streamed(*pieces), streamed=True).content == content
    assert read_answer(streamed(*pieces).replace(b"\n", b"\r\n")[:-4], streamed=True).content == content


CALLS = {"tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}
HISTORY = [{"role": "user", "content": "hi"}]


def exchange(message: Any, finish_reason: Any = "stop", **changes: Any) -> Conversation:
    """What is recorded of a plain answer to `hi`; the same as of a streamed one."""
    recorded = conversation(
        {"messages": HISTORY}, read_answer(whole(message, finish_reason, **changes), streamed=False)
    )
    deltas = [{"role": "assistant"}, message]
    if "tool_calls" in message:
        deltas[1] = message | {"tool_calls": [call | {"index": n} for n, call in enumerate(message["tool_calls"])]}
    sent = streamed(*deltas, finish_reason=finish_reason)
    of_stream = conversation({"messages": HISTORY}, read_answer(sent, streamed=True))
    assert of_stream.messages == recorded.messages
    assert of_stream.details[1]._replace(usage=None) == recorded.details[1]._replace(usage=None)
    return recorded


@pytest.mark.parametrize(
    ("message", "finish_reason", "answered"),
    [
        (CALLS | {"content": None}, "tool_calls", {"content": None, **CALLS}),
        (CALLS | {"content": "hello"}, "stop", {"content": "hello", **CALLS}),
        (
            {"content": None, "function_call": {"name": "f", "arguments": "{}"}},
            "function_call",
            {"content": None, "function_call": {"name": "f", "arguments": "{}"}},
        ),
        ({"content": None, "refusal": "I can't"}, "stop", {"content": None, "refusal": "I can't"}),
        ({"content": "x", "reasoning_content": "hm"}, "stop", {"content": "x", "reasoning_content": "hm"}),
        ({"content": "x"}, "length", {"content": "x"}),
        ({"content": ""}, "content_filter", {"content": ""}),
    ],
)
def test_all_that_an_answer_says_is_recorded(message: Any, finish_reason: str, answered: Any) -> None:
    recorded = exchange(message, finish_reason, usage={"total_tokens": 3})
    details = recorded.details[1]
    assert as_object(details.answered) == {"role": "assistant", "refusal": None} | answered
    assert (json.loads(details.finish_reason), json.loads(details.usage or b"0")) == (
        finish_reason,
        {"total_tokens": 3},
    )


@pytest.mark.parametrize(
    ("answer", "is_stream"),
    [
        (whole({"role": "user"}), False),
        (whole({"content": 3}), False),
        (whole({"tool_calls": [{}]}), False),
        (whole(choices=[{"message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}] * 2), False),
        (b'{"error": {"message": "no credit left"}}', False),
        (whole({"content": "hello"}, error={"message": "cut"}), False),
        (whole({"content": "hello"}, created=float("nan")), False),
        (whole({"content": "hello"}, usage={"prompt_tokens": float("nan")}), False),
        (whole({"content": "hello"}, usage={"prompt_tokens": 0.5}).replace(b"0.5", b"1e999"), False),
        (whole({"content": "hello", "x": 0.5}).replace(b"0.5", b"-1e999"), False),
        (streamed({"content": "hello"}).replace(b"3}", b"NaN}"), True),
        (streamed({"content": "hello"}).replace(b"3}", b"1e999}"), True),
        (whole({"content": "hello"}).replace(b"hello", b"hel\tlo"), False),
        (streamed({"content": "hello"}).replace(b"data: [DONE]", b"event: error\ndata: {}\n\ndata: [DONE]"), True),
        (streamed({"content": "hello"}, end=""), True),
        (streamed({"content": "hello"}).replace(b'"index": 0', b'"index": 1'), True),
        (b'data: {"error": {"message": "overloaded"}}\n\n', True),
    ],
)
def test_answers_that_are_not_recorded(answer: bytes, is_stream: bool) -> None:
    with pytest.raises(NotRecordable):
        conversation({"messages": HISTORY}, read_answer(answer, is_stream))


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b"{}", b'"text"', b'{"choices": []}', b'{"choices": 1}'])
def test_what_is_no_answer(answer: bytes) -> None:
    with pytest.raises(BadAnswer, match=r"an answer (that is not JSON|without choices)"):
        read_answer(answer, streamed=False)


@pytest.mark.parametrize("size", [0, 30, 100, len(streamed({"content": "hello"}, end="")) // 2])
def test_a_stream_that_breaks_off(size: int) -> None:
    with pytest.raises(BadAnswer, match=r"a stream that broke off in the middle|not JSON"):
        read_answer(streamed({"content": "hello"})[:size], streamed=True)

"""Replies that a test gives itself, as OpenAI's SDK gets them."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionMessage

from mockchat.core.program import ProgramError
from mockchat.testing import MockServer, serve

HI: Any = {"role": "user", "content": "hi"}
RECORDED = [[HI, {"role": "assistant", "content": "hello"}]]
CALL: dict[str, Any] = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}


@pytest.fixture
def server() -> Iterator[MockServer]:
    with serve(RECORDED) as running:
        yield running


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def client_of(server: MockServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0)


def ask(server: MockServer, *messages: Any, **parameters: Any) -> ChatCompletion:
    with client_of(server) as client:
        answer: ChatCompletion = client.chat.completions.create(model="m", messages=messages, **parameters)
    return answer


def said(server: MockServer, *messages: Any, **parameters: Any) -> ChatCompletionMessage:
    return ask(server, *messages, **parameters).choices[0].message


def test_each_once_in_order_before_what_is_recorded(server: MockServer) -> None:
    server.reply("one")
    server.reply("")
    assert said(server, HI).content == "one"
    assert said(server, user("what is new today?")).content == ""
    assert said(server, HI).content == "hello"
    server.check()
    with pytest.raises(openai.NotFoundError):
        ask(server, user("what is new today?"))
    assert [request.status for request in server.requests] == [200, 200, 200, 404]
    assert [len(request.body["messages"]) for request in server.misses] == [1]
    with pytest.raises(
        AssertionError, match=r"requests\[3\]: 404, .*; replies were given, 2 in all: none is left for it"
    ):
        server.check()


def test_usage_and_several_choices(server: MockServer) -> None:
    server.reply("one two")
    server.reply("short", finish_reason="length", usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3})
    several = ask(server, user("new"), n=2)
    assert [choice.message.content for choice in several.choices] == ["one two", "one two"]
    assert several.usage and several.usage.completion_tokens == 6
    given = ask(server, user("new"))
    assert (given.choices[0].finish_reason, given.usage and given.usage.total_tokens) == ("length", 3)
    assert several.id != given.id


def test_streamed(server: MockServer) -> None:
    server.reply("one two three")
    server.reply(tool_calls=[CALL, {**CALL, "id": "mine"}])
    options: Any = {"model": "m", "messages": [user("new")]}
    with client_of(server) as client:
        chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
        texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
        assert "".join(text or "" for text in texts) == "one two three" and len(texts) > 3
        assert chunks[-1].usage and chunks[-1].usage.prompt_tokens
        with client.chat.completions.stream(**options) as stream:
            choice = stream.get_final_completion().choices[0]
    called = choice.message.tool_calls or []
    assert choice.finish_reason == "tool_calls" and called[1].id == "mine"
    assert [call.function.arguments for call in called] == ['{"city":"Zürich"}'] * 2


def test_a_loop_of_tools(server: MockServer) -> None:
    server.reply(tool_calls=[CALL])
    server.reply("Looking.", tool_calls=[{"function": {"name": "time", "arguments": "{}"}}])
    server.reply("It is warm.")
    messages = [user("How warm is it?")]
    while not messages[-1].get("content") or messages[-1]["role"] != "assistant" or messages[-1].get("tool_calls"):
        answer = said(server, *messages)
        messages.append(answer.model_dump(exclude_none=True))
        messages += [{"role": "tool", "tool_call_id": call.id, "content": "21.5"} for call in answer.tool_calls or []]
    assert [message["role"] for message in messages[1:]] == ["assistant", "tool", "assistant", "tool", "assistant"]
    assert messages[3]["content"] == "Looking."
    assert messages[1]["tool_calls"][0]["id"] != messages[3]["tool_calls"][0]["id"]
    server.check()


def test_errors(server: MockServer) -> None:
    server.reply(status=429)
    server.reply("The context is too long", status=400)
    with pytest.raises(openai.RateLimitError):
        ask(server, user("new"))
    with pytest.raises(openai.BadRequestError, match="The context is too long"):
        ask(server, user("new"), stream=True)
    server.check()
    assert server.report().splitlines() == [
        "requests[0]: 429, A fault that was asked for: status 429",
        "requests[1]: 400, The context is too long",
    ]


def test_a_fault_in_its_place_leaves_the_reply() -> None:
    with serve(fault="500=first:1", ttft_ms=1, ignore="[0-9]+") as server:
        server.reply("one")
        server.reply("other")
        for asked in ("new 1", "newer 2"):
            with pytest.raises(openai.InternalServerError):
                ask(server, user(asked))
        with pytest.raises(openai.APIConnectionError):
            ask(server, user("new 3"), extra_headers={"X-Mockchat-Fault": "disconnect"})
        with pytest.raises(openai.BadRequestError):
            ask(server, user("new 4"), n=0)
        assert [said(server, user(asked)).content for asked in ("new 5", "newer 6")] == ["one", "other"]
        server.check()


def test_what_is_left_over(server: MockServer) -> None:
    server.reply("a text " * 100)
    server.reply(status=503)
    server.reply(tool_calls=[CALL, CALL])
    with pytest.raises(
        AssertionError, match=r"^replies that nothing asked for: text='a text .*'; status=503; tool_calls=.* \(where"
    ):
        server.check()
    server.strict = False
    server.check()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "give a text, tool_calls, a refusal, reasoning or a status"),
        ({"tool_calls": []}, "give a text, tool_calls, a refusal, reasoning or a status"),
        (
            {"text": {"content": "x"}},
            "content must be a string, a list of parts, or null; for JSON give json.dumps(...)",
        ),
        ({"status": 200}, "status must be a whole number from 400 to 599, not 200"),
        ({"status": "429"}, "status must be a whole number from 400 to 599, not '429'"),
        ({"status": 429, "finish_reason": "stop"}, "a status is an error's, which has a text at most"),
        ({"text": print, "status": 429}, "a function returns all that there is to answer: give nothing beside it"),
        ({"refusal": "no", "status": 429}, "a status is an error's, which has a text at most"),
        ({"tool_calls": [{"nam": "f"}]}, "tool_calls[0].function must be an object"),
        ({"tool_calls": ["f"]}, "tool_calls[0] must be an object"),
        ({"tool_calls": {"name": "f", "args": {}}}, "there is no 'args' in a tool call: give name, arguments, id"),
        ({"text": "", "finish_reason": 5}, '"finish_reason" is a number, not a string'),
    ],
)
def test_what_is_no_reply(server: MockServer, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ProgramError) as caught:
        server.reply(**given)
    assert str(caught.value) == f"reply: {told}"
    server.check()

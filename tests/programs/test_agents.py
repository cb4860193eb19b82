"""Agents and their clients, unmodified, against the server: each runs a tool loop from what is recorded."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from mockchat.testing import MockServer, serve
from tests.programs.test_sdk import SDK

QUESTION = {"role": "user", "content": "How warm is Zürich?"}
ARGUMENTS = '{"city": "Zürich", "n": 21.50}'
FINAL = "It is 21.5 °C, at noon."
CALLS = [
    {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": ARGUMENTS}}
    for name in ("weather", "time")
]


def recorded(*before: dict[str, str]) -> list[Any]:
    return [
        [
            *before,
            QUESTION,
            {"role": "assistant", "content": None, "tool_calls": CALLS},
            *[
                {"role": "tool", "tool_call_id": f"call_{name}", "content": f"{name} of Zürich"}
                for name in ("weather", "time")
            ],
            {"role": "assistant", "content": FINAL},
        ]
    ]


@pytest.fixture
def server() -> Iterator[MockServer]:
    with serve(recorded()) as running:
        yield running


def test_the_sdk_goes_on_with_the_message_that_it_got(server: MockServer) -> None:
    with openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        for spell in (lambda message: message, lambda message: message.model_dump()):
            messages: list[Any] = [QUESTION]
            choice = client.chat.completions.create(model="any", messages=messages).choices[0]
            assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
            assert [call.to_dict() for call in choice.message.tool_calls or ()] == CALLS
            messages.append(spell(choice.message))
            for call in reversed(choice.message.tool_calls or ()):
                assert call.type == "function"
                content = f"{call.function.name} of Zürich"
                messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
            choice = client.chat.completions.create(model="any", messages=messages).choices[0]
            assert (choice.finish_reason, choice.message.content) == ("stop", FINAL)
    assert server.misses == []


def test_the_sdk_joins_a_streamed_call(server: MockServer) -> None:
    with openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        with client.chat.completions.stream(model="any", messages=[QUESTION]) as stream:  # type: ignore[list-item]
            message = stream.get_final_completion().choices[0].message
        assert message.content is None
        calls = [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()]
        assert calls == [(call["id"], call["function"]["name"], ARGUMENTS) for call in CALLS]
        asked: Any = [
            QUESTION,
            message,
            *[
                {"role": "tool", "tool_call_id": call.id, "content": f"{call.function.name} of Zürich"}
                for call in message.tool_calls or ()
            ],
        ]
        with client.chat.completions.stream(model="any", messages=asked) as stream:
            assert stream.get_final_completion().choices[0].message.content == FINAL


def test_a_tool_that_says_something_else_is_a_miss_that_says_where(server: MockServer) -> None:
    *before, _ = recorded()[0]
    before[-1] = before[-1] | {"content": "time of Bern"}
    with (
        openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client,
        pytest.raises(openai.NotFoundError, match=r"messages\[3\] differs at character 8: sent 'time of Bern'"),
    ):
        client.chat.completions.create(model="any", messages=before)


@pytest.mark.skipif(not shutil.which("node"), reason="no Node here")
@pytest.mark.skipif(not (SDK / "node_modules" / "openai").exists(), reason="no npm here, so no JavaScript SDK")
def test_the_javascript_sdk_runs_tools(server: MockServer) -> None:
    command = ["node", str(SDK / "tools.mjs"), server.base_url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr == ""
    given = {"city": "Zürich", "n": 21.5}
    for line in ended.stdout.splitlines():
        assert json.loads(line) == [FINAL, [["weather", given], ["time", given]]]
    assert len(server.requests) == 4
    assert server.misses == []


def weather(city: str, n: float) -> str:
    """The weather of a city."""
    return f"weather of {city}"


def time(city: str, n: float) -> str:
    """The time in a city."""
    return f"time of {city}"


def with_langchain(base_url: str, stream: bool) -> str:
    pytest.importorskip("langchain")
    chat = pytest.importorskip("langchain_openai")
    from langchain.agents import create_agent  # type: ignore[import-not-found]

    model = chat.ChatOpenAI(model="any", base_url=base_url, api_key="any", max_retries=0, streaming=stream)
    asked = {"messages": [("user", QUESTION["content"])]}
    return create_agent(model, tools=[weather, time]).invoke(asked)["messages"][-1].content  # type: ignore[no-any-return]


def with_agents_sdk(base_url: str, stream: bool) -> str:
    agents = pytest.importorskip("agents")
    agents.set_tracing_disabled(True)

    async def run() -> str:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="any", max_retries=0) as client:
            model = agents.OpenAIChatCompletionsModel(model="any", openai_client=client)
            tools = [agents.function_tool(each) for each in (weather, time)]
            agent = agents.Agent(name="a", model=model, tools=tools)
            if not stream:
                return (await agents.Runner.run(agent, QUESTION["content"])).final_output  # type: ignore[no-any-return]
            running = agents.Runner.run_streamed(agent, QUESTION["content"])
            async for _ in running.stream_events():
                pass
            return running.final_output  # type: ignore[no-any-return]

    return asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("run", [with_langchain, with_agents_sdk])
@pytest.mark.filterwarnings("ignore")
def test_a_framework_runs_from_the_recording(run: Callable[[str, bool], str], stream: bool, server: MockServer) -> None:
    assert run(server.base_url, stream) == FINAL
    assert len(server.requests) == 2


def test_what_varies_is_told_and_can_be_ignored() -> None:
    def ask(server: MockServer, date: str) -> Any:
        with openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
            messages: Any = [{"role": "system", "content": f"Today is {date}"}, QUESTION]
            return client.chat.completions.create(model="any", messages=messages).choices[0]

    data = recorded({"role": "system", "content": "Today is 2026-11-25"})
    with (
        serve(data) as server,
        pytest.raises(openai.NotFoundError, match="differs at character"),
    ):
        ask(server, "2027-01-01")
    with serve(data, ignore=[r"\d{4}-\d\d-\d\d"]) as server:
        assert ask(server, "2027-01-01").finish_reason == "tool_calls"
        with pytest.raises(openai.NotFoundError):
            ask(server, "today")

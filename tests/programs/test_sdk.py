"""OpenAI's own clients, unmodified, against the real server."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any
from unittest.mock import ANY

import openai
import pytest

from tests.helpers import SAMPLE, requests_of
from tests.programs import ROOT, environment, running_server

SDK = ROOT / "tests" / "programs" / "sdk"


REQUESTS = requests_of(SAMPLE)
SOME = REQUESTS[::12] + [request for request in REQUESTS if "" in request["expected"]]
HI: Any = [{"role": "user", "content": "hi"}]
MISS: Any = [{"role": "user", "content": "nobody said this"}]


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with running_server("--data", str(SAMPLE), "--api-key", "any", env=environment()) as (url, _):
        yield url


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="any", max_retries=0) as client:
        yield client


def test_a_reply(client: openai.OpenAI) -> None:
    for request in SOME:
        answer = client.chat.completions.create(model="gpt-4o", messages=request["messages"])
        assert answer.choices[0].message.content in request["expected"]
        assert answer.choices[0].message.role == "assistant"
        assert (answer.choices[0].finish_reason, answer.model, answer.object) == ("stop", "gpt-4o", "chat.completion")
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_reply_streamed(client: openai.OpenAI) -> None:
    for request in SOME:
        joined = ""
        stream = client.chat.completions.create(
            model="gpt-4o", messages=request["messages"], stream=True, stream_options={"include_usage": True}
        )
        for chunk in stream:
            assert (chunk.object, chunk.model) == ("chat.completion.chunk", "gpt-4o")
            joined += "".join(choice.delta.content or "" for choice in chunk.choices)
        assert joined in request["expected"]
        assert chunk.usage is not None
        assert chunk.choices == []


def test_a_reply_through_the_stream_helper(client: openai.OpenAI) -> None:
    assert any("" in request["expected"] for request in SOME)
    for request in SOME:
        with client.chat.completions.stream(model="gpt-4o", messages=request["messages"]) as stream:
            kinds = {event.type for event in stream}
            message = stream.get_final_completion().choices[0].message
        assert (message.content or "") in request["expected"]
        assert kinds >= ({"chunk", "content.delta", "content.done"} if message.content else {"chunk"})


async def test_every_reply_whole_and_streamed(base_url: str) -> None:
    assert len(REQUESTS) > 150
    async with openai.AsyncOpenAI(base_url=base_url, api_key="any", max_retries=0) as client:

        async def ask(request: dict[str, Any]) -> None:
            asked: Any = {"model": "gpt-4o", "messages": request["messages"], "seed": 5}
            answer = await client.chat.completions.create(**asked)
            joined = ""
            async for chunk in await client.chat.completions.create(**asked, stream=True):
                joined += chunk.choices[0].delta.content or ""
            assert answer.choices[0].message.content == joined
            assert joined in request["expected"]

        for start in range(0, len(REQUESTS), 20):
            await asyncio.gather(*map(ask, REQUESTS[start : start + 20]))


def test_choices(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="m", messages=HI, n=4, seed=3)
    contents = [choice.message.content for choice in answer.choices]
    joined = [""] * 4
    for chunk in client.chat.completions.create(model="m", messages=HI, n=4, seed=3, stream=True):
        for choice in chunk.choices:
            joined[choice.index] += choice.delta.content or ""
    assert joined == contents
    assert answer.id in {"hi0000A", "hi1111B", "hi2222C", "hi3333D", "hi6666G", "hi7777H"}


def test_content_parts(client: openai.OpenAI) -> None:
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}]
    assert client.chat.completions.create(model="m", messages=parts).choices[0].message.content
    image: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]
    with pytest.raises(openai.NotFoundError, match=r"differs: sent .*, recorded") as caught:
        client.chat.completions.create(model="m", messages=image)
    assert caught.value.param == "messages[0]"


@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_sdk_s_own(client: openai.OpenAI, base_url: str, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError, match="No valid response exists for the given request: ") as missed:
        client.chat.completions.create(model="m", messages=MISS, stream=stream)
    assert (missed.value.param, missed.value.code) == ("messages[0]", "no_recorded_response")
    assert missed.value.type == "not_found_error"
    assert (missed.value.request_id or "").startswith("req_")
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="m", messages=HI, n=500, stream=stream)
    assert refused.value.param == "n"
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
        client.with_options(api_key="other").chat.completions.create(model="m", messages=HI, stream=stream)
    with pytest.raises(openai.NotFoundError, match="one route"):
        client.models.list()


def test_raw_and_streaming_responses(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="m", messages=HI)
    assert raw.headers["x-request-id"] == raw.request_id
    assert raw.parse().choices[0].message.content
    with client.chat.completions.with_streaming_response.create(model="m", messages=HI, stream=True) as response:
        lines = list(response.iter_lines())
    assert lines[-2:] == ["data: [DONE]", ""] or lines[-1] == "data: [DONE]"


# Its retries and its timeouts, against a server that fails as it was asked to


def test_retries_pass_what_fails_at_first_and_timeouts_end_what_stalls() -> None:
    options = ("--data", str(SAMPLE), "--fault", "503=first:1", "--fault", "header")
    with running_server(*options, env=environment()) as (url, _), openai.OpenAI(base_url=url, api_key="any") as client:
        asked: Any = {"model": "m", "messages": HI, "seed": 1}
        answer = client.chat.completions.with_raw_response.create(**asked)
        assert answer.retries_taken == 1
        assert answer.parse().choices[0].message.content
        once = client.with_options(max_retries=0)
        with pytest.raises(openai.APITimeoutError):
            once.chat.completions.create(**asked, extra_headers={"X-Mockchat-Fault": "stall"}, timeout=0.2)
        with pytest.raises(openai.RateLimitError):
            once.chat.completions.create(**asked, extra_headers={"X-Mockchat-Fault": "429"})
        with pytest.raises(openai.APIConnectionError):
            once.chat.completions.create(**asked, extra_headers={"X-Mockchat-Fault": "disconnect"})
        assert once.chat.completions.create(**asked) == answer.parse().model_copy(update={"created": ANY})


@pytest.mark.skipif(not shutil.which("node"), reason="no Node here")
@pytest.mark.skipif(not (SDK / "node_modules" / "openai").exists(), reason="no npm here, so no JavaScript SDK")
def test_javascript(base_url: str) -> None:
    ended = subprocess.run(
        ["node", str(SDK / "replay.mjs"), base_url],
        input=json.dumps(REQUESTS),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    assert ended.stdout.endswith(f"{len(REQUESTS)} requests, 0 wrong\n")

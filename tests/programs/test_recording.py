"""A server that records what another answers, from its command line to what its file is good for."""

import fcntl
import json
import socket
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import openai
import pytest

from mockchat.core import program
from mockchat.testing.server import serve
from tests.helpers import SAMPLE, request_body, requests_of
from tests.programs import REQUESTER, SERVER, STOP_TIMEOUT, Call, environment, running_server
from tests.programs.test_sdk import SOME


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--record", "f"], "--upstream and --record need each other: give both, or none"),
        (["--upstream", "http://127.0.0.1:1/v1"], "--upstream and --record need each other: give both, or none"),
        (["--upstream", "http://me:secret@127.0.0.1:1/v1", "--record", "f"], "--upstream: the URL names a user"),
        (["--upstream", "http://127.0.0.1:1/v1", "--record", "."], ".: is not a regular file"),
    ],
)
def test_what_can_t_be_started(
    arguments: list[str], told: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = call(SERVER, "--data", str(SAMPLE), *arguments)
    assert ended.returncode == program.COULD_NOT_RUN
    line = ended.stderr.splitlines()[-1]
    assert told in line
    assert "secret" not in ended.stderr
    assert not list(tmp_path.iterdir())


def test_an_upstream_that_is_silent_is_given_up(tmp_path: Path) -> None:
    """The recorded file may be data too, from the first run, when there is none."""
    path = str(tmp_path / "f")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        upstream = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        options = ("--data", path, "--record", path, "--upstream", upstream, "--upstream-timeout", "0.1")
        with (
            running_server(*options, env=environment()) as (url, process),
            pytest.raises(HTTPError, match="504"),
        ):
            urlopen(f"{url}/chat/completions", request_body(("user", "hi")))
    assert process.returncode == 0


@pytest.mark.parametrize("waits", [True, False])
def test_the_summary_says_how_many_answers_were_lost(tmp_path: Path, waits: bool) -> None:
    """Those that another process's lock kept out, or that the end of the server did."""
    path = tmp_path / "f"
    with serve([[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]]) as upstream:
        options = ("--upstream", upstream.base_url, "--record", str(path))
        end = () if waits else ("--shutdown-timeout", "0.1")
        with running_server(*options, *end, env=environment()) as (url, process), path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with urlopen(f"{url}/chat/completions", request_body(("user", "hi"))) as answer:
                assert answer.status == 200
            process.terminate()
            told, _ = process.communicate(timeout=STOP_TIMEOUT)
        assert f"Recorded 0 answers into {path}; lost 1" in told
        assert process.returncode == (program.OK if waits else program.FAILED)


def ask_some(base_url: str) -> None:
    """Ask for some replies of the sample, streamed, through OpenAI's SDK."""
    with openai.OpenAI(base_url=base_url, api_key="any", max_retries=0) as client:
        for request in SOME:
            stream = client.chat.completions.create(model="m", messages=request["messages"], stream=True)
            joined = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            assert joined in request["expected"]


def test_recorded_once_and_replayed_for_ever(tmp_path: Path, call: Call) -> None:
    """By two that record, one of which is asked for whole answers and one for streams; by their files alone."""
    files = [str(tmp_path / name) for name in ("plain", "streamed")]
    # So nothing is asked before what it has in it, which would be recorded with it.
    in_order = ("--concurrency", "1")

    def replay(base_url: str, *arguments: str) -> None:
        ended = call(REQUESTER, "--base-url", base_url, "--data", str(SAMPLE), "--quiet", *in_order, *arguments)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "All 169 replies verified.\n", "")

    with ExitStack() as running:
        with serve(SAMPLE) as upstream:
            arguments = ("--upstream", upstream.base_url, "--record")
            plain, streamed = (
                running.enter_context(running_server(*arguments, file, env=environment()))[0] for file in files
            )
            replay(plain)
            asked = len(upstream.requests)
            replay(streamed, "--stream")
            ask_some(streamed)
            assert asked == len(requests_of(SAMPLE)) == len(upstream.requests) - asked
        replay(plain)
        replay(streamed, "--stream")
        ask_some(plain)
    for file in files:
        with serve(file) as server:
            replay(server.base_url)
            ask_some(server.base_url)


def test_what_must_match_is_asked_recorded_and_replayed_apart(tmp_path: Path, call: Call) -> None:
    file = str(tmp_path / "f")
    hi: Any = [{"role": "user", "content": "hi"}]
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"a": 1, "b": 2}}}]
    respelled: Any = [{"function": {"parameters": {"b": 2.0, "a": 1}, "name": "weather"}, "type": "function"}]
    other: Any = [{"type": "function", "function": {"name": "time", "parameters": {}}}]
    both = ("--match", "model", "--match", "tools")
    with serve([[*hi, {"role": "assistant", "content": "hello"}]]) as upstream, ExitStack() as running:
        arguments = ("--upstream", upstream.base_url, "--record", file, *both)
        url, _ = running.enter_context(running_server(*arguments, env=environment()))
        client = running.enter_context(openai.OpenAI(base_url=url, api_key="any", max_retries=0))
        for _ in range(2):
            for model in "ab":
                assert client.chat.completions.create(messages=hi, model=model).model == model
            for spelling in (tools, respelled):
                client.chat.completions.create(messages=hi, model="a", tools=spelling, temperature=0, user="me")
        assert len(upstream.requests) == 3
    requests = [json.loads(line)["request"] for line in Path(file).read_text().splitlines()]
    assert requests == [{"model": "a"}, {"model": "b"}, {"model": "a", "tools": tools, "temperature": 0}]
    with serve(file, match=["model", "tools"]) as server:
        ask = partial(call, REQUESTER, "--base-url", server.base_url, "--data", file, "--quiet")
        for more in ((), ("--stream",)):
            assert ask(*both, *more).stdout == "All 3 replies verified.\n"
        assert "model differs at character 0: sent 'mockchat' (U+006D), recorded 'a'" in ask().stdout
        with openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
            for model, given, told in (
                ("c", openai.NOT_GIVEN, "model differs at character 0: sent 'c' (U+0063), recorded "),
                ("b", tools, "model differs at character 0: sent 'b' (U+0062), recorded 'a'"),
                ("a", other, "tools[0].function.name differs at character 0: sent 'time' (U+0074), recorded 'weather'"),
            ):
                with pytest.raises(openai.NotFoundError) as missed:
                    client.chat.completions.create(messages=hi, model=model, tools=given)
                assert told in missed.value.message
    with serve(file) as server, openai.OpenAI(base_url=server.base_url, api_key="any") as client:
        assert client.chat.completions.create(messages=hi, model="c").choices[0].message.content == "hello"

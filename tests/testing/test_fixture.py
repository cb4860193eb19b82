"""The fixture in test suites as people have them: OpenAI's SDK, clients that are made once, files of their own."""

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from mockchat.testing import MockServer, serve
from tests.testing.project import run

pytest_plugins = ["pytester"]

SDK = """
import functools, os, sys, threading
import openai, pytest

HI = {"role": "user", "content": "hi"}

def client(base_url=None, key="any"):
    return openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)

def create(client, text="hi", **more):
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="m", messages=messages, **more)

def said(client, text="hi", **more):
    return create(client, text, **more).choices[0].message.content

def recording(question, *answers):
    return [[{"role": "user", "content": question}, {"role": "assistant", "content": answer}] for answer in answers]
"""


@pytest.fixture(autouse=True, scope="module")
def _imported() -> None:
    """Import all that the SDK imports late: a run of pytest inside this one forgets what it imports."""
    hello: Any = [{"role": "user", "content": "hi"}]
    with serve() as server:
        for _ in range(2):
            server.reply("hello")
        options: Any = {"base_url": server.base_url, "api_key": "any"}
        with openai.OpenAI(**options) as client:
            client.chat.completions.create(model="m", messages=hello)

        async def ask() -> None:
            async with openai.AsyncOpenAI(**options) as client:
                await client.chat.completions.create(model="m", messages=hello)

        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:  # It leaves pytest's own loop as it is.
            runner.run(ask())


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def upstream() -> Iterator[MockServer]:
    with serve() as server:
        yield server


def recordings(*pairs: tuple[str, str]) -> str:
    """Lines of a file: a question and its answer each."""
    said = [[{"role": "user", "content": asked}, {"role": "assistant", "content": reply}] for asked, reply in pairs]
    return "".join(json.dumps({"messages": each}) + "\n" for each in said)


def answers(text: str) -> list[str]:
    return [json.loads(line)["messages"][-1]["content"] for line in text.splitlines()]


# One address


def test_clients_that_are_made_once(project: pytest.Pytester) -> None:
    project.makepyfile(
        SDK
        + """
@functools.lru_cache
def cached():
    return openai.OpenAI(max_retries=0)

@pytest.fixture(scope="session")
def once(mockchat_url):
    with client(mockchat_url) as made:
        yield made

@pytest.mark.parametrize("number", range(6))
def test_cached(mockchat_env, number):
    mockchat_env.reply(f"reply {number}")
    assert said(cached()) == f"reply {number}"
    assert said(cached()) == "hello"
    assert len(mockchat_env.requests) == 2

@pytest.mark.mockchat(fault="429=first:1", strict=False)
def test_the_session_s_client(once, mockchat, mockchat_url):
    with pytest.raises(openai.RateLimitError):
        said(once)
    assert mockchat.base_url == mockchat_url

def test_the_session_s_client_with_another_state(once, mockchat_env):
    assert said(once) == "hello"
    assert [request.status for request in mockchat_env.requests] == [200]

def test_without_a_server(once):
    with pytest.raises(openai.NotFoundError, match="No test with the fixture mockchat is running"):
        said(once)
"""
    )
    run(project).assert_outcomes(passed=9)


def test_requests_of_an_earlier_test_do_not_reach_it(project: pytest.Pytester) -> None:
    project.makepyfile(
        SDK
        + """
import socket

left = []

@pytest.mark.mockchat(ttft_ms=500)
def test_one(mockchat):
    slow = openai.OpenAI(base_url=mockchat.base_url, api_key="any")  # It would try again.
    answers = []
    left.append(threading.Thread(target=lambda: answers.append(said(slow))))
    left[0].start()
    while not mockchat.requests:
        pass
    half = socket.create_connection(("127.0.0.1", int(mockchat.base_url.split(":")[2][:-3])))
    half.sendall(b"POST /v1/chat/completions HTTP/1.1\\r\\nHost: x\\r\\n")
    half.sendall(b"Content-Length: 10\\r\\nExpect: 100-continue\\r\\n\\r\\nha")
    assert half.recv(100)
    left.extend([half, answers])

def test_other(mockchat):
    thread, half, answers = left
    thread.join(30)
    assert answers == ["hello"]
    with half:
        half.sendall(b"h" * 8)
        assert half.recv(100).startswith(b"HTTP/1.1 404")
    assert mockchat.requests == []
"""
    )
    run(project).assert_outcomes(passed=2)


def test_an_app_that_is_made_at_its_import(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nmockchat_env = true")
    project.makepyfile(
        app="""
        import openai

        class App:
            def __init__(self):
                self.client = openai.OpenAI(max_retries=0)

            def greet(self):
                messages = [{"role": "user", "content": "hi"}]
                return self.client.chat.completions.create(model="m", messages=messages).choices[0].message.content

        app = App()
        """
    )
    project.makeconftest("from app import app")
    project.makepyfile(
        """
        from app import app

        def test_one(mockchat_env):
            assert app.greet() == "hello"

        def test_other(mockchat):
            mockchat.reply("other")
            assert app.greet() == "other"
        """
    )
    run(project).assert_outcomes(passed=2)
    assert "OPENAI_BASE_URL" not in os.environ


def test_async_tests_with_one_client(project: pytest.Pytester) -> None:
    """With a loop for each test, and with one for all."""
    project.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function")
    project.makepyfile(
        """
        import asyncio, openai, pytest

        @pytest.fixture(scope="session")
        def client(mockchat_url):
            return openai.AsyncOpenAI(base_url=mockchat_url, api_key="any", max_retries=0)

        async def ask_often(client, mockchat, number):
            mockchat.reply(lambda request: request.body["messages"][0]["content"].upper())

            async def ask(text):
                messages = [{"role": "user", "content": text}]
                return (await client.chat.completions.create(model="m", messages=messages)).choices[0].message.content

            texts = [f"text {number} {each}" for each in range(20)]
            assert await asyncio.gather(*map(ask, texts)) == [text.upper() for text in texts]
            assert len(mockchat.requests) == 20

        @pytest.mark.parametrize("number", range(2))
        async def test_in_a_loop_of_its_own(client, mockchat, number):
            await ask_often(client, mockchat, number)

        @pytest.mark.parametrize("number", range(2))
        @pytest.mark.asyncio(loop_scope="session")
        async def test_in_the_session_s_loop(client, mockchat, number):
            await ask_often(client, mockchat, number)
        """
    )
    run(project, "-p", "asyncio").assert_outcomes(passed=4)


# What a test says comes first


def test_what_a_test_says_comes_before_the_file(project: pytest.Pytester) -> None:
    project.makepyfile(
        SDK
        + """
def test_reply(mockchat):
    with client(mockchat.base_url) as asking:
        mockchat.reply("given")
        assert [said(asking), said(asking)] == ["given", "hello"]

@pytest.mark.parametrize("number", range(8))
def test_load(mockchat, number):
    with client(mockchat.base_url) as asking:
        assert said(asking) == "hello"
        mockchat.load(recording("hi", "one", "two"))
        assert [said(asking) for _ in range(4)] == ["one", "two", "two", "two"]
        mockchat.load(recording("hi", "three"))
        assert said(asking, seed=1, n=2) == "three"
        mockchat.reply("given")
        assert said(asking) == "given"
"""
    )
    run(project).assert_outcomes(passed=9)


def test_functions(project: pytest.Pytester) -> None:
    project.makepyfile(
        SDK
        + """
def content(request):
    return request.body["messages"][-1]["content"]

def test_by_content(mockchat):
    mockchat.reply(lambda request: "sunny" if "weather" in content(request) else None)
    mockchat.reply(lambda request: {"status": 429} if content(request) == "limit" else None)
    mockchat.reply("otherwise")
    with client(mockchat.base_url) as asking:
        assert said(asking, "the weather?") == "sunny"
        assert said(asking, "what?") == "otherwise"
        assert said(asking, "and the weather?") == "sunny"
        with pytest.raises(openai.RateLimitError):
            said(asking, "limit")
        assert said(asking) == "hello"

def test_all_that_a_reply_has(mockchat):
    call = {"name": "look_up", "arguments": {"city": "Oslo"}}
    made = iter([{"tool_calls": call}, {"tool_calls": [{"name": "now"}, call | {"id": "mine"}], "text": "Wait."},
                 {"refusal": "No."}, {"reasoning": "Hm.", "text": "Yes."}])
    mockchat.reply(lambda request: next(made))
    with client(mockchat.base_url) as asking:
        one, two, refused, thought = [create(asking, f"n{number}").choices[0].message for number in range(4)]
        assert [call.function.arguments for call in one.tool_calls + two.tool_calls] == [
            '{"city":"Oslo"}', "{}", '{"city":"Oslo"}']
        assert two.content == "Wait." and two.tool_calls[1].id == "mine"
        assert (refused.refusal, refused.content) == ("No.", None)
        assert (thought.reasoning_content, thought.content) == ("Hm.", "Yes.")
        assert len({call.id for call in one.tool_calls + two.tool_calls}) == 3

def test_headers_and_streams(mockchat):
    mockchat.reply(lambda request: request.headers["x-name"] + " and more")
    with client(mockchat.base_url) as asking:
        chunks = create(asking, stream=True, extra_headers={"X-Name": "me"})
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "me and more"

def test_fails(mockchat):
    def answer(request):
        assert request.body["model"] == "other"
    mockchat.reply(answer)
    with client(mockchat.base_url) as asking, pytest.raises(openai.BadRequestError):
        said(asking)

def test_fails_by_pytest(mockchat):
    mockchat.reply(lambda request: pytest.fail("another model"))
    with client(mockchat.base_url) as asking, pytest.raises(openai.BadRequestError):
        said(asking)

def test_exits(mockchat):
    mockchat.reply(lambda request: sys.exit(3))
    with client(mockchat.base_url) as asking, pytest.raises(openai.BadRequestError):
        said(asking)

def test_returns_rubbish(mockchat):
    mockchat.reply(lambda request: {"txt": "x"})
    with client(mockchat.base_url) as asking, pytest.raises(openai.BadRequestError):
        said(asking)

def test_fails_elsewhere(mockchat):
    mockchat.reply(lambda request: mockchat.reply(status=200))
    with client(mockchat.base_url) as asking, pytest.raises(openai.BadRequestError):
        said(asking)

def test_async(mockchat):
    async def answer(request):
        return "never"
    mockchat.reply(answer)

def test_never_asked(mockchat):
    def nobody(request):
        return None
    mockchat.reply(nobody)
    with client(mockchat.base_url) as asking:
        said(asking)

def test_loads(mockchat):
    mockchat.reply(lambda request: mockchat.load(recording("hi", "loaded")))
    with client(mockchat.base_url) as asking:
        assert said(asking) in ("loaded", "hello")
        assert said(asking) == "loaded"
    mockchat.strict = False
"""
    )
    result = run(project)
    result.assert_outcomes(passed=4, failed=7)
    result.stdout.fnmatch_lines(
        [
            "*_ test_fails _*",
            "requests[[]0]: 400, the function answer failed at */test_functions.py:*: AssertionError: assert 'm' == *",
            "*_ test_fails_by_pytest _*",
            "requests[[]0]: 400, the function <lambda> failed at */test_functions.py:*: Failed: another model",
            "*_ test_exits _*",
            "requests[[]0]: 400, the function <lambda> failed at */test_functions.py:*: SystemExit: 3",
            "*_ test_returns_rubbish _*",
            "requests[[]0]: 400, the function <lambda> failed: *'txt'*",
            "*_ test_fails_elsewhere _*",
            "requests[[]0]: 400, the function <lambda> failed at */test_functions.py:*: reply: status must be *",
            "E *ProgramError: reply: the function must not be async: *",
            "*_ test_never_asked _*",
            "replies that nothing asked for: the function nobody (*)",
        ]
    )


# Strict sees all


def test_strict(pytester: pytest.Pytester) -> None:
    """Recording is not advised where it would not help, though nothing is recorded."""
    pytester.makepyfile(
        SDK
        + """
@pytest.mark.parametrize("path", ["responses", "embeddings"])
def test_unknown_path(mockchat, path):
    with client(mockchat.base_url) as asking, pytest.raises(openai.NotFoundError):
        asking.post(f"/{path}", body={"model": "m", "input": "x"}, cast_to=object)

def test_function(mockchat):
    mockchat.reply(lambda request: 1 / 0)
    with client(mockchat.base_url) as asking, pytest.raises(openai.BadRequestError):
        said(asking)

elsewhere = client("http://127.0.0.1:9/v1")

def test_asks_elsewhere(mockchat_env):
    with pytest.raises(openai.APIConnectionError):
        said(elsewhere)

@pytest.mark.mockchat(strict=False)
def test_asks_elsewhere_and_means_it(mockchat_env):
    pass

def test_asks_nothing_and_has_the_server_only(mockchat):
    pass
"""
    )
    result = run(pytester)
    result.assert_outcomes(passed=2, failed=4)
    result.stdout.fnmatch_lines(
        [
            "requests that missed: 1 *",
            "requests[[]0]: 404, Unknown path /v1/responses: *this is the Responses API*",
            "requests that missed: 1 *",
            "requests[[]0]: 404, Unknown path /v1/embeddings: *",
            "requests that missed: 1 *",
            "requests[[]0]: 400, the function <lambda> failed at */test_strict.py:*: ZeroDivisionError: *",
            "*_ test_asks_elsewhere _*",
            "nothing asked this server: *before the test? *`mockchat_env = true` or `mockchat_url`. *base_url[?] (*",
        ]
    )
    result.stdout.no_fnmatch_line("*Nothing is recorded*")


def test_a_miss_without_any_recordings(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        SDK
        + """
def test_one(mockchat):
    with client(mockchat.base_url) as asking, pytest.raises(openai.NotFoundError):
        said(asking, "How warm is it?")
"""
    )
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "requests[[]0]: 404, *: nothing is recorded; the last message is 'How warm is it?'",
            "(Nothing is recorded in */tests/conversations.jsonl: record it with --mockchat-record=URL, or say what is "
            "answered with mockchat.reply(...))",
        ]
    )


# The same history twice


def test_the_same_history_twice(project: pytest.Pytester) -> None:
    written = recordings(("hi", "b"), ("hi", "a"), ("hi", "c"))
    project.path.joinpath("tests/conversations.jsonl").write_text(written)
    project.makepyfile(
        SDK
        + """
@pytest.mark.parametrize("number", range(4))
@pytest.mark.mockchat(ttft_ms=1)
def test_in_the_file_s_order(mockchat, number):
    with client(mockchat.base_url) as asking:
        with pytest.raises(openai.RateLimitError):
            said(asking, extra_headers={"X-Mockchat-Fault": "429"})
        assert [said(asking) for _ in range(5)] == ["b", "a", "c", "c", "c"]
"""
    )
    run(project).assert_outcomes(passed=4)


def test_a_retry_is_recorded(pytester: pytest.Pytester, upstream: MockServer) -> None:
    numbers = iter(range(9))
    upstream.reply(lambda request: f"answer {next(numbers)}")
    pytester.makepyfile(
        SDK
        + """
def test_retry(mockchat_env):
    with client(mockchat_env.base_url) as asking:
        assert [said(asking) for _ in range(3)] == ["answer 0", "answer 1", "answer 2"]

def test_first_again(mockchat_env):
    with client(mockchat_env.base_url) as asking:
        assert said(asking) == "answer 0"

def test_what_is_loaded_is_not_asked(mockchat_env):
    mockchat_env.load(recording("hi", "loaded"))
    with client(mockchat_env.base_url) as asking:
        assert [said(asking), said(asking)] == ["loaded", "loaded"]
"""
    )
    run(pytester, f"--mockchat-record={upstream.base_url}").assert_outcomes(passed=3)
    file = pytester.path / "tests/conversations.jsonl"
    assert answers(file.read_text()) == ["answer 0", "answer 1", "answer 2"]
    run(pytester).assert_outcomes(passed=3)
    run(pytester, f"--mockchat-record={upstream.base_url}").assert_outcomes(passed=3)
    assert len(upstream.requests) == 3


# Files


OWN = (
    SDK
    + """
@pytest.mark.mockchat(data="weather.jsonl")
def test_own(mockchat):
    with client(mockchat.base_url) as asking:
        assert said(asking, "own") == "recorded"

def test_shared(mockchat):
    with client(mockchat.base_url) as asking:
        assert said(asking) == "hello"
"""
)


def test_a_file_of_its_own(project: pytest.Pytester, upstream: MockServer) -> None:
    upstream.reply(lambda request: "recorded")
    tests = project.path / "tests/unit"
    tests.mkdir()
    (tests / "test_own.py").write_text(OWN)
    missing = run(project)
    missing.assert_outcomes(passed=1, failed=1)
    missing.stdout.fnmatch_lines(["(Nothing is recorded in */tests/unit/weather.jsonl: *"])
    result = run(project, f"--mockchat-record={upstream.base_url}")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*= mockchat =*", f"Answers recorded into {tests}/weather.jsonl: 1"])
    assert answers((tests / "weather.jsonl").read_text()) == ["recorded"]
    assert answers((project.path / "tests/conversations.jsonl").read_text()) == ["hello"]
    run(project).assert_outcomes(passed=2)


@pytest.mark.parametrize("missing", ["typo.jsonl", "no_folder/", "*.json"])
def test_a_name_without_recordings_is_told_with_a_miss(project: pytest.Pytester, missing: str) -> None:
    project.makeini(f"[pytest]\nmockchat_data = tests/conversations.jsonl {missing}")
    project.makepyfile(
        SDK
        + """
def test_hit(mockchat):
    assert said(client(mockchat.base_url)) == "hello"

def test_miss(mockchat):
    with pytest.raises(openai.NotFoundError):
        said(client(mockchat.base_url), "ho")
"""
    )
    result = run(project, "-W", "ignore")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([f"(Nothing is recorded in {project.path / missing}: record it *"])


@pytest.mark.parametrize("named", ["recorded", "recorded/*.jsonl", "**/*.jsonl", "recorded/a.jsonl recorded/b.jsonl"])
def test_folders_and_globs(pytester: pytest.Pytester, named: str) -> None:
    folder = pytester.mkdir("recorded")
    (folder / "a.jsonl").write_text(recordings(("hi", "hello")))
    (folder / "b.jsonl").write_text(recordings(("bye", "so long")))
    (folder / "a.jsonl.unfinished").write_text('{"id":"')
    pytester.makeini(f"[pytest]\nmockchat_data = {named}")
    pytester.makepyfile(
        SDK
        + """
def test_both(mockchat):
    with client(mockchat.base_url) as asking:
        assert [said(asking), said(asking, "bye")] == ["hello", "so long"]
"""
    )
    run(pytester).assert_outcomes(passed=1)


def test_recording_into_a_folder(pytester: pytest.Pytester, upstream: MockServer) -> None:
    upstream.reply("recorded")
    folder = pytester.mkdir("recorded")
    pytester.makeini("[pytest]\nmockchat_data = recorded")
    pytester.makepyfile(SDK + '\ndef test_one(mockchat):\n    assert said(client(mockchat.base_url)) == "recorded"\n')
    for _ in range(2):
        run(pytester, "-W", "ignore", f"--mockchat-record={upstream.base_url}").assert_outcomes(passed=1)
    assert answers((folder / "conversations.jsonl").read_text()) == ["recorded"]


def test_what_is_ignored_by_the_configuration(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nmockchat_ignore =\n    \\d+ times\n    [.!]+\n")
    project.makepyfile(
        SDK
        + """
def test_ignored(mockchat):
    with client(mockchat.base_url) as asking:
        assert said(asking, "hi!5 times") == "hello"

@pytest.mark.mockchat(ignore="x")
def test_the_marker_s_in_place_of_it(mockchat):
    with client(mockchat.base_url) as asking:
        assert said(asking, "hxi") == "hello"
        with pytest.raises(openai.NotFoundError):
            said(asking, "hi!")
    mockchat.strict = False
"""
    )
    run(project).assert_outcomes(passed=2)
    wrong = run(project, "-o", "mockchat_ignore=(")
    wrong.assert_outcomes(passed=1, errors=1)
    wrong.stdout.fnmatch_lines(["mockchat: ignore: '(' is not a regular expression*"])

"""The plugin as pytest loads it: in runs of pytest inside this one."""

import json

import pytest

from tests.testing.project import ASK, SWALLOWS, run

pytest_plugins = ["pytester"]

INLINE = """
    mockchat.load([[{"role": "user", "content": "new"}, {"role": "assistant", "content": "inline"}]])
"""


def test_a_passing_test_says_nothing(project: pytest.Pytester) -> None:
    project.makepyfile(
        ASK
        + """
def test_one(mockchat):
    assert ask(mockchat.base_url, "hi") == "hello"
    assert [request.body["messages"][0]["content"] for request in mockchat.requests] == ["hi"]

def test_other(mockchat):"""
        + INLINE
        + """
    assert ask(mockchat.base_url, "new") == "inline"
    assert ask(mockchat.base_url, "hi") == "hello"
    assert len(mockchat.requests) == 2
"""
    )
    result = run(project)
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*- mockchat -*")


def test_a_failing_test_tells_each_miss(project: pytest.Pytester) -> None:
    project.makepyfile(
        ASK
        + """
import pytest, urllib.error

def test_misses(mockchat):
    for content in ("ho", "hi", "hi\\u00a0"):
        try:
            ask(mockchat.base_url, content)
        except urllib.error.HTTPError:
            pass
    assert not mockchat.misses

@pytest.fixture
def setup(mockchat):
    ask(mockchat.base_url, "setup")

def test_setup(setup):
    pass

def test_without_misses(mockchat):
    assert ask(mockchat.base_url, "hi") == "bye"
"""
    )
    result = run(project)
    result.assert_outcomes(failed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*- mockchat -*",
            "requests[[]0]: 404, No valid response exists for the given request: messages[[]0] differs at character 0*",
        ]
    )
    result.stdout.fnmatch_lines(
        ["*_ test_misses _*", "*- mockchat -*", "requests[[]0]: 404, *'ho'*", "requests[[]2]: 404, *xa0*"]
    )
    assert str(result.stdout).count("- mockchat -") == 2


def test_recordings_elsewhere(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nmockchat_data = tests/conversations.jsonl other.json")
    project.makefile(
        ".json", other='{"messages": [{"role": "user", "content": "new"}, {"role": "assistant", "content": "other"}]}'
    )
    project.makepyfile(
        ASK
        + """
def test_both(mockchat):
    assert (ask(mockchat.base_url, "hi"), ask(mockchat.base_url, "new")) == ("hello", "other")
"""
    )
    run(project).assert_outcomes(passed=1)


def test_parameters_that_must_match(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nmockchat_match = model tools")
    project.makefile(
        ".jsonl",
        chats=json.dumps(
            {
                "messages": [
                    {"role": "system", "content": "Be kind."},
                    {"role": "user", "content": "new"},
                    {"role": "assistant", "content": "other"},
                ],
                "request": {"model": "a"},
            }
        ),
    )
    project.makepyfile(
        """
import openai, pytest

@pytest.fixture
def ask(mockchat):
    mockchat.load("chats.jsonl")
    mockchat.strict = False
    with openai.OpenAI(base_url=mockchat.base_url, api_key="any", max_retries=0) as client:
        def ask(model, *messages):
            asked = [{"role": role, "content": text} for role, text in messages]
            return client.chat.completions.create(model=model, messages=asked).choices[0].message.content
        yield ask

KIND, NEW = ("system", "Be kind."), ("user", "new")

def test_configuration(ask):
    assert ask("a", KIND, NEW) == "other"
    with pytest.raises(openai.NotFoundError, match="model differs at character 0: sent 'b'"):
        ask("b", KIND, NEW)

@pytest.mark.mockchat(match=[])
def test_marker(ask):
    assert ask("b", KIND, NEW) == "other"

@pytest.mark.mockchat(match="messages")
def test_wrong(ask):
    pass

def test_prompt(ask):
    with pytest.raises(openai.NotFoundError, match="the system prompt is missing: with 'Be kind.' before messages"):
        ask("a", NEW)
    with pytest.raises(openai.NotFoundError, match="0., a system prompt, is not recorded; without it the history is "):
        ask("a", ("system", "Be rude."), ("user", "hi"))
"""
    )
    result = run(project)
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*match: 'messages' is not a recorded parameter of requests: give one name*"])


def test_no_recordings_and_tests_that_do_not_use_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_none(mockchat): assert mockchat.requests == []\ndef test_without(): assert False\n")
    result = run(pytester)
    result.assert_outcomes(passed=1, failed=1)


def test_the_server_s_options_by_a_marker(project: pytest.Pytester) -> None:
    project.makepyfile(
        ASK
        + """
import pytest, urllib.error

@pytest.mark.mockchat(fault="503=first:1", ttft_ms=1)
def test_fails_first(mockchat):
    with pytest.raises(urllib.error.HTTPError):
        ask(mockchat.base_url, "hi")
    assert ask(mockchat.base_url, "hi") == "hello"
"""
    )
    run(project, "--strict-markers").assert_outcomes(passed=1)


def test_pieces_are_not_joined_where_a_marker_says_so(project: pytest.Pytester) -> None:
    pieces = [("a_0", "hi", "hello"), ("a_2", "and?", "more")]
    written = [
        {"id": name, "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for name, asked, said in pieces
    ]
    project.path.joinpath("tests/conversations.jsonl").write_text("\n".join(map(json.dumps, written)))
    project.makepyfile(
        SWALLOWS
        + """
def test_joined(mockchat):
    mockchat.strict = False
    swallow(mockchat, "and?")
    assert ask(mockchat.base_url, "hi", "hello", "and?") == "more"

@pytest.mark.mockchat(no_stitch=True)
def test_apart(mockchat):
    assert ask(mockchat.base_url, "and?") == "more"

@pytest.mark.mockchat(no_stitch=False)
def test_joined_again(mockchat):
    assert ask(mockchat.base_url, "hi", "hello", "and?") == "more"

@pytest.mark.mockchat(no_stitch="yes")
def test_neither(mockchat): pass
"""
    )
    result = run(project)
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["mockchat: no_stitch: give True or False, not 'yes'"])


@pytest.mark.parametrize("empty", [False, True])
def test_where_there_are_no_recordings_the_report_says_so(pytester: pytest.Pytester, empty: bool) -> None:
    if empty:
        pytester.mkdir("tests").joinpath("conversations.jsonl").touch()
    pytester.makepyfile(
        ASK
        + """
def test_misses(mockchat):
    ask(mockchat.base_url, "hi")
"""
    )
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "requests[[]0]: 404, *",
            "(Nothing is recorded in */tests/conversations.jsonl: *--mockchat-record=URL*mockchat.reply(*",
        ]
    )


def test_recordings_that_can_t_be_read(project: pytest.Pytester) -> None:
    project.path.joinpath("tests/conversations.jsonl").write_text('{"messages": [')
    project.makepyfile("def test_one(mockchat): pass")
    result = run(project)
    result.assert_outcomes(errors=1)
    result.stdout.no_fnmatch_line("*Error*")
    result.stdout.fnmatch_lines(["*conversations.jsonl: is cut off at line 1, byte 15*"])


def test_beside_asyncio_and_aiohttp(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nasyncio_mode = auto\nfilterwarnings = error")
    project.makepyfile(
        """
        import aiohttp, pytest
        from aiohttp import web

        async def ask(session, mockchat):
            body = {"messages": [{"role": "user", "content": "hi"}]}
            async with session.post(mockchat.base_url + "/chat/completions", json=body) as response:
                return (await response.json())["choices"][0]["message"]["content"]

        async def test_asyncio(mockchat):
            async with aiohttp.ClientSession() as session:
                assert await ask(session, mockchat) == "hello"
                mockchat.load([[{"role": "user", "content": "more"}]])

        async def test_aiohttp(mockchat, aiohttp_client):
            async def handler(request):
                async with aiohttp.ClientSession() as session:
                    return web.Response(text=await ask(session, mockchat))

            application = web.Application()
            application.router.add_get("/", handler)
            client = await aiohttp_client(application)
            async with client.get("/") as response:
                assert await response.text() == "hello"
        """
    )
    # With all plugins that are installed: mockchat's is one of them.
    options = ("-p", "no:hypothesispytest", "-o", "asyncio_default_fixture_loop_scope=function")
    project.runpytest_inprocess(*options).assert_outcomes(passed=2)


def test_a_miss_that_is_swallowed_fails_the_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        SWALLOWS
        + """
def test_swallowed(mockchat):
    swallow(mockchat, "ho")

def test_fails_itself(mockchat):
    swallow(mockchat, "ho")
    assert "its own"  == "failure"

@pytest.mark.xfail
def test_known(mockchat):
    swallow(mockchat, "ho")

def test_skipped(mockchat):
    swallow(mockchat, "ho")
    pytest.skip()

@pytest.fixture
def asks_late(mockchat):
    yield
    swallow(mockchat, "late")

def test_late(asks_late):
    pass

def test_late_and_failed(asks_late):
    assert False
"""
    )
    result = run(project, "-rA")
    result.assert_outcomes(failed=3, xfailed=1, skipped=1, passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*_ ERROR at teardown of test_late _*",
            "requests that missed: 1 (where that is meant: mockchat.strict = False, *",
            "*_ test_swallowed _*",
            "requests that missed: 1 (where that is meant: mockchat.strict = False, *",
            "requests[[]0]: 404, *'ho'*",
            "*_ test_fails_itself _*",
            "E *assert 'its own' == 'failure'",
            "*- mockchat -*",
        ]
    )
    assert str(result.stdout).count("- mockchat -") == 1


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="this pytest has no subtests")
def test_subtests(project: pytest.Pytester) -> None:
    """The server is checked at the end of the test, not of each subtest."""
    project.makepyfile(
        ASK
        + """
def test_all(mockchat_env, subtests):
    mockchat_env.reply("one")
    mockchat_env.reply("two")
    for text in ("one", "two"):
        with subtests.test(text):
            assert ask(mockchat_env.base_url, "which?") == text

def test_one_left(mockchat_env, subtests):
    mockchat_env.reply("one")
    mockchat_env.reply("two")
    with subtests.test("one"):
        assert ask(mockchat_env.base_url, "which?") == "one"
"""
    )
    result = run(project)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["replies that nothing asked for: text='two' (*"])


def test_a_miss_that_is_meant(project: pytest.Pytester) -> None:
    project.makepyfile(
        SWALLOWS
        + """
import unittest

def test_by_attribute(mockchat):
    mockchat.strict = False
    swallow(mockchat, "ho")

@pytest.mark.mockchat(strict=False, fault="503=first:1")
class TestByMarkers:
    def test_of_the_class(self, mockchat):
        swallow(mockchat, "ho")

    @pytest.mark.mockchat(fault="503=first:2")
    def test_nearer_wins_and_the_others_add_up(self, mockchat):
        swallow(mockchat, "ho")
        swallow(mockchat, "hi")
        swallow(mockchat, "hi")
        assert ask(mockchat.base_url, "hi") == "hello"

    @pytest.mark.mockchat(strict=True)
    def test_strict_again(self, mockchat):
        swallow(mockchat, "ho")

class TestOfUnittest(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def _server(self, mockchat):
        self.mockchat = mockchat

    def test_swallowed(self):
        swallow(self.mockchat, "ho")

    def test_fails_itself(self):
        swallow(self.mockchat, "ho")
        self.fail("on its own")
"""
    )
    result = run(project)
    result.assert_outcomes(failed=3, passed=3)
    result.stdout.fnmatch_lines(
        [
            "*_ TestByMarkers.test_strict_again _*",
            "requests that missed: 1 *",
            "*_ TestOfUnittest.test_fails_itself _*",
            "E *AssertionError: on its own",
            "*_ TestOfUnittest.test_swallowed _*",
            "requests that missed: 1 *",
        ]
    )


def test_markers_that_are_refused(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.mockchat("503=first:1")
        def test_without_a_name(mockchat): pass

        @pytest.mark.mockchat(stric=False)
        def test_unknown(mockchat): pass

        @pytest.mark.mockchat(data=["more.jsonl"])
        def test_data(mockchat): pass

        @pytest.mark.mockchat(ttft_ms="soon")
        def test_no_number(mockchat): pass

        @pytest.mark.mockchat("weather.jsonl")
        def test_file_without_a_name(mockchat): pass

        @pytest.mark.mockchat(dat="weather.jsonl")
        def test_almost_data(mockchat): pass

        @pytest.mark.mockchat(ignore="(")
        def test_pattern(mockchat): pass
        """
    )
    result = run(project)
    result.assert_outcomes(errors=7)
    result.stdout.fnmatch_lines(
        [
            "mockchat: '503=first:1' has no name: name it, as in data='weather.jsonl' or ttft_ms=50",
            "mockchat: there is no option 'stric': the options are *",
            "mockchat: data: give the name of a file, not [[]'more.jsonl']",
            "mockchat: ttft_ms: 'soon' is not a number of at least 0, below a billion",
            "mockchat: 'weather.jsonl' has no name: name it, as in data='weather.jsonl' or ttft_ms=50",
            "mockchat: there is no option 'dat': the options are *, data, strict",
            "mockchat: ignore: '(' is not a regular expression*",
        ]
    )
    result.stdout.no_fnmatch_line("*During handling*")


def test_replies_that_are_given(project: pytest.Pytester) -> None:
    project.makepyfile(
        SWALLOWS
        + """
def test_all_asked_for(mockchat):
    mockchat.reply("given")
    assert ask(mockchat.base_url, "new") == "given"

def test_one_left(mockchat):
    mockchat.reply("given")
    mockchat.reply(status=429)
    assert ask(mockchat.base_url, "new") == "given"

@pytest.mark.mockchat(strict=False)
def test_one_left_but_not_strict(mockchat):
    mockchat.reply("given")
"""
    )
    result = run(project)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        ["*_ test_one_left _*", "replies that nothing asked for: status=429 (where that is meant: *)"]
    )


def test_a_program_that_makes_its_own_client(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a real one")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    project.makepyfile(
        ASK
        + """
import os, pytest

KEY = "OPENAI_API_KEY"

def test_any_key(mockchat_env, mockchat):
    assert ask(os.environ["OPENAI_BASE_URL"], "hi") == "hello"
    assert mockchat_env is mockchat
    assert os.environ[KEY] == mockchat.api_key == "any"

@pytest.mark.mockchat(api_key=["secret", "other"])
def test_the_key_that_the_server_asks_for(mockchat_env):
    assert os.environ[KEY] == "secret"
    mockchat_env.strict = False

def test_afterwards():
    assert (os.environ[KEY], os.environ.get("OPENAI_BASE_URL")) == ("a real one", None)
"""
    )
    run(project).assert_outcomes(passed=3)

"""`--mockchat-record`: what a run of pytest asks another server once, and any later one finds in the file."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mockchat.testing import MockServer, serve
from tests.testing.project import ASK, SWALLOWS, run

pytest_plugins = ["pytester"]

TEST = (
    ASK
    + """
import os

def test_first(mockchat_env):
    assert ask(os.environ["OPENAI_BASE_URL"], "new") == "recorded"

def test_second(mockchat):
    assert ask(mockchat.base_url, "new") == "recorded"
    assert ask(mockchat.base_url, "new", "recorded", "more") == "at once"

def test_third_leaves_before_the_end(mockchat):
    body = json.dumps({"messages": [{"role": "user", "content": "go on"}], "stream": True}).encode()
    with urllib.request.urlopen(mockchat.base_url + "/chat/completions", body) as answer:
        assert answer.readline().startswith(b"data: {")
"""
)
KEY = "OPENAI_API_KEY"


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv(KEY, "a real one")


@pytest.fixture
def upstream() -> Iterator[MockServer]:
    texts = ["new", "recorded", "more", "at once"]
    said = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]
    going_on = [{"role": "user", "content": "go on"}, {"role": "assistant", "content": "word " * 100_000}]
    with serve([said, going_on]) as server:
        yield server


def lines(path: Path) -> list[str]:
    return [json.loads(line)["messages"][-1]["content"] for line in path.read_text().splitlines()]


def test_what_one_test_records_the_next_one_finds(pytester: pytest.Pytester, upstream: MockServer) -> None:
    pytester.makepyfile(TEST)
    result = run(pytester, f"--mockchat-record={upstream.base_url}")
    result.assert_outcomes(passed=3)
    file = pytester.path / "tests/conversations.jsonl"
    told = f"asking {upstream.base_url} for what is not recorded, and recording it into {file}"
    result.stdout.fnmatch_lines([f"mockchat: {told}", "*= mockchat =*", f"Recorded 3 answers into {file}"])
    assert lines(file) == ["recorded", "at once", "word " * 100_000]
    assert [request.status for request in upstream.requests] == [200, 200, 200]
    replayed = run(pytester)
    replayed.assert_outcomes(passed=3)
    replayed.stdout.no_fnmatch_line("*recording*")
    assert len(upstream.requests) == 3


def test_the_client_s_own_key_and_a_file_that_is_named(pytester: pytest.Pytester, upstream: MockServer) -> None:
    pytester.makeini("[pytest]\nmockchat_data = data/chats.jsonl")
    pytester.makepyfile(
        ASK.replace(
            '"application/json"}', '"application/json", "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}'
        )
        + """
import os, pytest

def test_a_key(mockchat_env):
    assert ask(mockchat_env.base_url, "new") == "recorded"
    assert os.environ["OPENAI_API_KEY"] == mockchat_env.api_key == "a real one"
    mockchat_env.reply("given")
    assert ask(mockchat_env.base_url, "given") == "given"
    mockchat_env.reply(status=429)
    with pytest.raises(Exception, match="429"):
        ask(mockchat_env.base_url, "given")

def test_none(mockchat_env):
    assert "OPENAI_API_KEY" in os.environ
"""
    )
    run(pytester, f"--mockchat-record={upstream.base_url}").assert_outcomes(passed=2)
    assert lines(pytester.path / "data/chats.jsonl") == ["recorded"]
    assert [request.headers["Authorization"] for request in upstream.requests] == ["Bearer a real one"]


def test_what_is_not_recorded_is_told(pytester: pytest.Pytester, upstream: MockServer) -> None:
    pytester.makepyfile(
        SWALLOWS.replace('"messages": messages}', '"messages": messages, "n": 2}')
        + """
def test_several(mockchat):
    assert ask(mockchat.base_url, "new") == "recorded"

def test_an_error(mockchat):
    swallow(mockchat, "old")
    assert [request.status for request in mockchat.requests] == [404]
    assert False
"""
    )
    result = run(pytester, f"--mockchat-record={upstream.base_url}")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- mockchat -*",
            "requests[[]0]: 404, the upstream answered so: No valid response exists for the given request: *'old'*",
            "*= mockchat =*",
            "Recorded 0 answers into *",
            "Requests for several choices (n above 1) are not recorded, only passed on",
        ]
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-n", "2"], "one process at a time can record, so switch pytest-xdist off by -n 0"),
        (
            ["-o", "mockchat_data=a.jsonl b.jsonl"],
            "mockchat_data names 2 files, and it can't be known which *: */a.jsonl*",
        ),
        (["-o", "mockchat_data=test_it.py"], "*/test_it.py: is not JSON lines, an entry a line, so nothing can be *"),
        (["-o", "mockchat_data=test_it.py/a.jsonl"], "*/test_it.py: can't be made: *"),
        (["--mockchat-record=example.org"], "'example.org' is not a base URL: give one like http://*"),
        (["--mockchat-record=http://me:secret@example.org"], "it names a user: *"),
    ],
)
def test_where_nothing_can_be_recorded(pytester: pytest.Pytester, arguments: list[str], told: str) -> None:
    pytester.makepyfile(test_it="def test_one(mockchat): pass")
    result = run(pytester, "--mockchat-record=http://127.0.0.1:9/v1", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --mockchat-record: {told}"])


def test_not_in_ci_unless_it_is_meant(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    pytester.makepyfile("def test_one(mockchat): pass")
    result = run(pytester, "--mockchat-record=http://127.0.0.1:9/v1")
    result.stderr.fnmatch_lines(["ERROR: --mockchat-record is refused where CI is set: add --mockchat-record-in-ci *"])
    meant = run(pytester, "--mockchat-record=http://127.0.0.1:9/v1", "--mockchat-record-in-ci", "-n", "0")
    meant.assert_outcomes(passed=1)
    assert not (pytester.path / "tests/conversations.jsonl").exists()

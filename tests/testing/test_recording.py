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
    result.stdout.fnmatch_lines([f"mockchat: {told}", "*= mockchat =*", f"Answers recorded into {file}: 3"])
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

@pytest.mark.mockchat(strict=False)
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
            "Answers recorded into *: 0",
            "Passed on but not recorded: answers with several choices",
        ]
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--mockchat-record="], "'' is not a base URL: give one like http://*"),
        (
            ["-o", "mockchat_data=a.jsonl b.jsonl"],
            "a.jsonl, b.jsonl: name one file to record into, as with -o mockchat_data=FILE",
        ),
        (
            ["-o", "mockchat_data=*.jsonl"],
            "[*].jsonl: name one file to record into, as with -o mockchat_data=FILE",
        ),
        (
            ["-o", "mockchat_data=test_it.py"],
            "*/test_it.py: line 1 is not an entry of JSON lines: mend it, or record into another file",
        ),
        (["-o", "mockchat_data=test_it.py/a.jsonl"], "*/test_it.py/a.jsonl: can't be recorded into: Not a directory"),
        (["--mockchat-record=example.org"], "'example.org' is not a base URL: give one like http://*"),
        (["--mockchat-record=http://me:secret@example.org"], "the URL names a user: *"),
    ],
)
def test_where_nothing_can_be_recorded(pytester: pytest.Pytester, arguments: list[str], told: str) -> None:
    pytester.makepyfile(test_it="def test_one(mockchat): pass")
    result = run(pytester, "--mockchat-record=http://127.0.0.1:9/v1", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --mockchat-record: {told}"])


@pytest.mark.parametrize(("ci", "refused"), [("true", True), ("1", True), ("", False), ("false", False), ("0", False)])
def test_not_in_ci(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str, refused: bool) -> None:
    monkeypatch.setenv("CI", ci)
    pytester.makepyfile("def test_one(mockchat): pass")
    result = run(pytester, "--mockchat-record=http://127.0.0.1:9/v1")
    if refused:
        told = "ERROR: --mockchat-record: is refused where CI is set: set CI=false if it is meant"
        result.stderr.fnmatch_lines([told])
    else:
        result.assert_outcomes(passed=1)


def test_under_xdist_all_processes_record_into_one_file(pytester: pytest.Pytester, upstream: MockServer) -> None:
    """Both ask the same at the same time: the line is written once."""
    pytester.makepyfile(
        ASK
        + """
import pytest

@pytest.mark.parametrize("number", range(20))
def test_new(mockchat, number):
    assert ask(mockchat.base_url, "new") == "recorded"

@pytest.mark.parametrize("number", range(20))
def test_own(mockchat, number):
    if number < 2:
        roles = ["user", "assistant", "user"]
        messages = [{"role": r, "content": c} for r, c in zip(roles, ["new", "recorded", "more"])]
        body = json.dumps({"messages": messages, "n": 2}).encode()
        urllib.request.urlopen(mockchat.base_url + "/chat/completions", body).read()
    assert ask(mockchat.base_url, "new", "recorded", "more") == "at once"
"""
    )
    result = run(pytester, f"--mockchat-record={upstream.base_url}", "-n", "2")
    result.assert_outcomes(passed=40)
    file = pytester.path / "tests/conversations.jsonl"
    assert sorted(lines(file)) == ["at once", "recorded"]
    result.stdout.fnmatch_lines(
        ["*= mockchat =*", "Answers recorded into *", "Passed on but not recorded: answers with several choices"]
    )
    run(pytester, "-k", "test_new").assert_outcomes(passed=20)


def test_a_line_that_a_crash_cut_off_is_moved_away_and_told(pytester: pytest.Pytester, upstream: MockServer) -> None:
    pytester.makepyfile(TEST)
    file = pytester.mkdir("tests") / "conversations.jsonl"
    file.write_text('{"id":"068860104134ff31","messages":[{"role":"us')
    result = run(pytester, f"--mockchat-record={upstream.base_url}")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        ["*= mockchat =*", f"{file}: line 1 was never finished, *: it is moved to {file}.unfinished"]
    )
    assert lines(file) == ["recorded", "at once", "word " * 100_000]

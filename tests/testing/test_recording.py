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
LONG = "word " * 20_000


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv(KEY, "a real one")


@pytest.fixture
def upstream() -> Iterator[MockServer]:
    texts = ["new", "recorded", "more", "at once"]
    said = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]
    several = [{"role": "user", "content": "several"}, {"role": "assistant", "content": "x"}]
    going_on = [{"role": "user", "content": "go on"}, {"role": "assistant", "content": LONG}]
    with serve([said, going_on, several]) as server:
        yield server


def lines(path: Path) -> list[str]:
    return [json.loads(line)["messages"][-1]["content"] for line in path.read_text().splitlines()]


def test_what_one_test_records_the_next_one_finds(pytester: pytest.Pytester, upstream: MockServer) -> None:
    pytester.makepyfile(TEST)
    result = run(pytester, f"--mockchat-record={upstream.base_url}")
    result.assert_outcomes(passed=3)
    file = pytester.path / "tests/conversations.jsonl"
    result.stdout.fnmatch_lines(["*= mockchat =*", f"Answers recorded into {file}: 3"])
    assert lines(file) == ["recorded", "at once", LONG]
    assert [request.status for request in upstream.requests] == [200, 200, 200]
    replayed = run(pytester)
    replayed.assert_outcomes(passed=3)
    replayed.stdout.no_fnmatch_line("*= mockchat =*")
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
            "requests[[]0]: 404, the upstream answered: No valid response exists for the given request: *'old'*",
            "*= mockchat =*",
            "Answers recorded into *: 0",
            "Passed on but not recorded: answers with several choices",
        ]
    )


def test_what_a_test_that_is_not_strict_asks_is_not_recorded(pytester: pytest.Pytester, upstream: MockServer) -> None:
    pytester.makepyfile(
        SWALLOWS
        + """
@pytest.mark.mockchat(strict=False)
def test_misses(mockchat):
    swallow(mockchat, "go on")
    assert [request.status for request in mockchat.misses] == [404]

def test_misses_for_a_while(mockchat):
    assert ask(mockchat.base_url, "new") == "recorded"
    mockchat.strict = False
    assert ask(mockchat.base_url, "new") == "recorded"
    swallow(mockchat, "go on")

def test_strict_again(mockchat):
    mockchat.strict = False
    swallow(mockchat, "go on")
    mockchat.strict = True
    assert ask(mockchat.base_url, "go on")
    mockchat.strict = False
"""
    )
    for _ in range(2):
        run(pytester, f"--mockchat-record={upstream.base_url}", "-k", "not again").assert_outcomes(
            passed=2, deselected=1
        )
        assert lines(pytester.path / "tests/conversations.jsonl") == ["recorded"]
        assert len(upstream.requests) == 1
        run(pytester, "-k", "not again").assert_outcomes(passed=2, deselected=1)
    run(pytester, f"--mockchat-record={upstream.base_url}").assert_outcomes(passed=3)
    assert len(upstream.requests) == 2


def test_what_failed_at_the_upstream_fails_the_test(pytester: pytest.Pytester, upstream: MockServer) -> None:
    answers = {"tried again": iter([{"status": 429}, "done"]), "refused": iter([{"status": 401}])}
    upstream.reply(lambda request: next(answers[request.body["messages"][0]["content"]]))
    pytester.makepyfile(
        SWALLOWS
        + """
def test_tried_again(mockchat):
    swallow(mockchat, "tried again")
    assert ask(mockchat.base_url, "tried again") == "done"

def test_refused(mockchat):
    mockchat.reply("given")
    assert ask(mockchat.base_url, "given") == "given"
    swallow(mockchat, "refused")
    assert mockchat.misses == []
"""
    )
    result = run(pytester, f"--mockchat-record={upstream.base_url}")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*_ test_refused _*",
            "requests that failed at the upstream, and are not recorded: 1 (*",
            "requests[[]1]: 401, the upstream answered: A fault that was asked for: status 401",
        ]
    )
    result.stdout.no_fnmatch_line("(Nothing is recorded *")


@pytest.mark.parametrize(
    ("fault", "outcomes"),
    [("disconnect=1", {"failed": 4}), ("stall=1", {"passed": 4, "errors": 4})],
    ids=["cut", "slow"],
)
def test_an_answer_that_never_came_whole(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, fault: str, outcomes: dict[str, int]
) -> None:
    """It is cut before its first byte, or in the middle of its stream; or it does not come at all."""
    monkeypatch.setattr("mockchat.testing.server._FINISHING", 0.1)
    pytester.makepyfile(
        SWALLOWS
        + """
@pytest.mark.parametrize("number", range(4))
def test_one(mockchat, number):
    body = b'{"messages": [{"role": "user", "content": "hi"}], "stream": true}'
    try:
        with urllib.request.urlopen(mockchat.base_url + "/chat/completions", body, timeout=0.2) as answer:
            answer.read()
    except OSError:
        pass
"""
    )
    hi = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello " * 50}]
    with serve([hi], fault=fault, random_seed=1) as failing:
        result = run(pytester, f"--mockchat-record={failing.base_url}")
    result.assert_outcomes(**outcomes)
    result.stdout.fnmatch_lines(["requests that failed at the upstream, and are not recorded: 1 (*"])


@pytest.mark.parametrize("named", ["tests/chats.jsonl", "tests/c*.jsonl"])
def test_a_project_whose_path_looks_like_a_glob(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, upstream: MockServer, named: str
) -> None:
    monkeypatch.chdir(pytester.mkdir("a[1]"))
    Path("pytest.ini").write_text(f"[pytest]\nmockchat_data = {named}")
    test = '\ndef test_one(mockchat):\n    assert ask(mockchat.base_url, "new") == "recorded"\n'
    Path("test_it.py").write_text(ASK + test)
    recording = ("-o", "mockchat_data=tests/chats.jsonl", f"--mockchat-record={upstream.base_url}")
    run(pytester, "test_it.py", *recording).assert_outcomes(passed=1)
    run(pytester, "test_it.py").assert_outcomes(passed=1)
    assert len(upstream.requests) == 1


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
    """Both ask the same at the same time: the line is written once. A miss of theirs is told too."""
    pytester.makepyfile(
        SWALLOWS
        + """
@pytest.fixture(scope="session")
def once(mockchat_url):
    return mockchat_url

@pytest.mark.parametrize("number", range(20))
def test_new(mockchat, once, number):
    assert ask(once, "new") == "recorded"

@pytest.mark.parametrize("number", range(20))
def test_own(mockchat, number):
    if number < 2:
        body = json.dumps({"messages": [{"role": "user", "content": "several"}], "n": 2}).encode()
        urllib.request.urlopen(mockchat.base_url + "/chat/completions", body).read()
    assert ask(mockchat.base_url, "new", "recorded", "more") == "at once"

@pytest.mark.mockchat(strict=False)
def test_miss(mockchat):
    ask(mockchat.base_url, "ho")
"""
    )
    result = run(pytester, f"--mockchat-record={upstream.base_url}", "-p", "xdist", "-n", "2")
    result.assert_outcomes(passed=40, failed=1)
    file = pytester.path / "tests/conversations.jsonl"
    assert sorted(lines(file)) == ["at once", "recorded"]
    result.stdout.fnmatch_lines(
        [
            "*- mockchat -*",
            "requests[[]0]: 404, *'ho'*",
            "*= mockchat =*",
            "Answers recorded into *",
            "Passed on but not recorded: answers with several choices",
        ]
    )
    run(pytester, "-k", "test_new").assert_outcomes(passed=20)


def test_a_line_that_a_crash_cut_off_is_moved_away_and_told(pytester: pytest.Pytester, upstream: MockServer) -> None:
    pytester.makepyfile(ASK + '\ndef test_one(mockchat):\n    assert ask(mockchat.base_url, "new") == "recorded"\n')
    file = pytester.mkdir("tests") / "conversations.jsonl"
    file.write_text('{"id":"068860104134ff31","messages":[{"role":"us')
    result = run(pytester, f"--mockchat-record={upstream.base_url}")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*= mockchat =*", f"{file}: line 1 was never finished, *: it is moved to {file}.unfinished"]
    )
    assert lines(file) == ["recorded"]

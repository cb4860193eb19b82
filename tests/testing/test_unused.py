"""`--mockchat-unused`: at the end of a run it is told which recordings no test has used."""

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mockchat.testing import read, serve
from tests.testing.project import ASK, SWALLOWS, run

pytest_plugins = ["pytester"]

HISTORY = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello", "weight": 0}]


def line(*contents: str, **more: Any) -> str:
    messages: list[dict[str, Any]] = [
        {"role": ("user", "assistant")[number % 2], "content": content} for number, content in enumerate(contents)
    ]
    return json.dumps({"messages": messages, **more}) + "\n"


def write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(lines))


@pytest.mark.parametrize("arguments", [(), ("-n", "1")])
def test_what_no_test_has_used(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    write(pytester.path / "tests/a.jsonl", [line("hi", "hello", id="used"), line("bye", "so long", id="never")])
    write(
        pytester.path / "b.jsonl", [line("hi", "hello", "What do you know of the Zürich of 1916?", "Dada", id="later")]
    )
    pytester.makeini("[pytest]\nmockchat_data = tests/a.jsonl b.jsonl")
    pytester.makepyfile(
        ASK
        + """
import pytest

@pytest.mark.mockchat(strict=False, ignore="Z.*")
def test_some(mockchat):
    assert ask(mockchat.base_url, "hi") == "hello"

def test_others(mockchat):
    mockchat.load([[{"role": "user", "content": "new"}, {"role": "assistant", "content": "inline"}]])
    assert ask(mockchat.base_url, "new") == "inline"
"""
    )
    result = run(pytester, "--mockchat-unused", *arguments)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "*= mockchat =*",
            "Used by no test that ran, 1 of 3 recordings:",
            "tests/a.jsonl: never, 2 messages: 'bye'",
        ]
    )
    result.stdout.no_fnmatch_line("*later*")


def test_all_used_while_they_are_recorded(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    pytester.makepyfile(SWALLOWS + '\ndef test_one(mockchat):\n    assert ask(mockchat.base_url, "hi") == "hello"\n')
    with serve([HISTORY[:1] + [{"role": "assistant", "content": "hello"}]]) as upstream:
        result = run(pytester, "--mockchat-unused", f"--mockchat-record={upstream.base_url}")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["Recorded 1 answer into *", "There is no unused recording"])


def test_without_the_option_nothing_is_said(pytester: pytest.Pytester) -> None:
    write(pytester.path / "tests/conversations.jsonl", [line("hi", "hello")])
    pytester.makepyfile("def test_one(mockchat): pass")
    run(pytester).stdout.no_fnmatch_line("*= mockchat =*")


def test_a_recording_is_used_where_one_of_its_replies_may_have_been_the_answer() -> None:
    last = {"role": "assistant", "content": "so long"}
    recorded = read(
        [
            [*HISTORY, {"role": "user", "content": "bye"}, last],  # The history alone has been asked.
            [HISTORY[0], {"role": "assistant", "content": "hello"}],
            [HISTORY[0], {"role": "assistant", "content": "hey"}],
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x" * 50}, last],
        ]
    )
    with serve(recorded, random_seed=1) as server:
        assert server.used(recorded) == set()
        body = json.dumps({"messages": HISTORY[:1]}).encode()
        with urllib.request.urlopen(server.base_url + "/chat/completions", body):
            pass
        assert server.used(recorded) == {1, 2}


def test_first_words(pytester: pytest.Pytester) -> None:
    """A recording may have no messages, and none of the user's."""
    system = {"role": "system", "content": "Be brief."}
    lines = [
        json.dumps({"id": "none", "messages": []}) + "\n",
        json.dumps({"id": "system", "messages": [system]}) + "\n",
        json.dumps({"id": "long", "messages": [system, {"role": "user", "content": "x" * 50}, *HISTORY[1:]]}) + "\n",
        line("hi", "hello", id="used"),
    ]
    write(pytester.path / "tests/conversations.jsonl", lines)
    pytester.makepyfile(ASK + '\ndef test_one(mockchat):\n    assert ask(mockchat.base_url, "hi") == "hello"\n')
    result = run(pytester, "--mockchat-unused")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "Used by no test that ran, 3 of 4 recordings:",
            "tests/conversations.jsonl: none, 0 messages: none",
            "tests/conversations.jsonl: system, 1 messages: 'Be brief.'",
            f"tests/conversations.jsonl: long, 3 messages: '{'x' * 30}'…",
        ]
    )

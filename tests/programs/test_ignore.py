"""--ignore on both sides: what is compared of histories is less than what is said, and answers are compared in full."""

from pathlib import Path

import pytest

from mockchat.core.dataset import load
from mockchat.testing.server import serve
from tests.helpers import SAMPLE
from tests.programs import REQUESTER, Call


@pytest.mark.parametrize("stream", [(), ("--stream",)])
def test_right_answers_are_verified_in_full(stream: tuple[str, ...], call: Call) -> None:
    with serve(SAMPLE, ignore=r"\d") as server:
        asked = call(REQUESTER, "--base-url", server.base_url, "--data", str(SAMPLE), "--ignore", r"\d", *stream)
    assert (asked.returncode, "All 169 replies verified." in asked.stdout) == (0, True), asked.stdout


def test_a_wrong_answer_is_a_mismatch_although_it_differs_in_what_is_ignored(tmp_path: Path, call: Call) -> None:
    recorded, other = tmp_path / "recorded.jsonl", tmp_path / "other.jsonl"
    line = '{"messages": [{"role": "user", "content": "day %d"}, {"role": "assistant", "content": "day %d"}]}\n'
    recorded.write_text(line % (1, 1))
    other.write_text(line % (2, 2))
    assert load(recorded).replies == load(other).replies == 1
    with serve(recorded, ignore=r"\d") as server:
        asked = call(REQUESTER, "--base-url", server.base_url, "--data", str(other), "--ignore", r"\d")
    assert asked.returncode == 1
    assert "differs at character 4: got 'day 1'" in asked.stdout

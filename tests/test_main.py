"""`python -m mockchat`: each word starts its program, and no word is told what there is."""

import sys

import pytest

from mockchat import __main__


@pytest.mark.parametrize(
    ("given", "status", "told"),
    [
        (["serve", "--port", "x"], 2, "'x' is not a port"),
        (["replay", "--rate", "x"], 2, "'x' is not a number above 0"),
        (["bench", "--rate", "x"], 2, "'x' is not a number above 0"),
        (["seed-test", "--data", "missing.json", "--seed", "1"], 2, "unrecognized arguments: --seed 1"),
        ([], 2, "usage: python -m mockchat serve|replay|bench|seed-test [--help]"),
        (["plot"], 2, "usage: python -m mockchat serve|replay|bench|seed-test [--help]"),
    ],
)
def test_programs(
    given: list[str], status: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["__main__.py", *given])
    try:
        ended: object = __main__.main()
    except SystemExit as by_argparse:
        ended = by_argparse.code
    assert ended == status
    assert told in capsys.readouterr().err

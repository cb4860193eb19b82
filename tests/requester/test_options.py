"""The requester's options: which type each has, and what follows from one for another."""

import os

import pytest

from mockchat.requester import options


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("--base-url", "127.0.0.1:8000"),
        ("--base-url", "http://[::1/v1"),
        ("--base-url", "http://127.0.0.1:99999/v1"),
        ("--api-key", "sk-abc\r"),
        ("--header", "no colon"),
        ("--header", "X: a\nb"),
        ("--header", ": b"),
        ("--ignore", "("),
        ("--concurrency", "0"),
        ("--rate", "0"),
        ("--duration", "-1"),
        ("--limit", "-1"),
        ("--random-seed", "x"),
        ("--timeout", "0"),
        ("--retries", "-1"),
        ("--processes", "0"),
        ("--plot", "picture.gif"),
    ],
)
def test_what_an_option_refuses(name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        options.parse([f"{name}={text}"])
    assert ended.value.code == 2
    assert f"error: argument {name}: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["--quie", "--conc=3", "--unknown"])
def test_a_name_is_never_cut_short(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options.parse([name])
    assert f"unrecognized arguments: {name}" in capsys.readouterr().err


def test_what_follows_from_other_options() -> None:
    assert options.parse([]).concurrency == os.cpu_count()
    assert options.parse(["--rate", "5"]).concurrency == options.IN_FLIGHT_AT_A_RATE
    assert options.parse(["--rate", "5", "--concurrency", "2"]).concurrency == 2
    assert not options.parse([]).shuffle
    assert options.parse(["--random-seed", "0"]).shuffle

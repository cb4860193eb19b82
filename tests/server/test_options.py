"""The server's options, on its command line and as keyword arguments: the same names, checks and defaults."""

import re
from decimal import Decimal
from typing import Any

import pytest

from mockchat.core.program import ProgramError
from mockchat.server import options
from mockchat.server.simulation import Fault


def test_both_ways_give_the_same() -> None:
    line = ["--ttft-ms", "50", "--api-key", "a", "--api-key", "b", "--fault", "503=first:2", "--random-seed", "-1"]
    parsed = vars(options.parse(line))
    given = vars(
        options.from_keywords({"ttft_ms": 50, "api_key": ["a", "b"], "fault": "503=first:2", "random_seed": -1})
    )
    assert given == {name: parsed[name] for name in given}
    assert given["fault"] == [Fault("503", first=2)]
    assert options.from_keywords({"no_stitch": True, "ignore": "--x y\n"}).ignore == ["--x y\n"]
    assert [options.from_keywords({"no_stitch": value}).no_stitch for value in (True, False)] == [True, False]
    assert options.from_keywords({"api_key": " k ", "jitter": Decimal("0.5")}).api_key == ["k"]
    default, parsed = vars(options.from_keywords({})), vars(options.parse([]))
    assert default == {name: parsed[name] for name in default}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"ttft": 5}, "there is no option 'ttft': the options are no_stitch, max_body_mb, "),
        ({"port": 80}, "there is no option 'port': the options are no_stitch, max_body_mb, "),
        ({"ttft_ms": "x"}, "ttft_ms: 'x' is not a number of at least 0"),
        ({"ttft_ms": [1, 2]}, "ttft_ms: give one value, not 2"),
        ({"ttft_ms": True}, "ttft_ms: give a text or a number, not True"),
        ({"ttft_ms": []}, "ttft_ms: give one value, not 0"),
        ({"api_key": False}, "api_key: give a text or a number, not False"),
        ({"ignore": re.compile(r"\d+")}, "ignore: give a text or a number, not re.compile('"),
        ({"ignore": ["x", {"y"}]}, "ignore: give a text or a number, not {'y'}"),
        ({"ignore": b"x"}, "ignore: give a text or a number, not b'x'"),
        ({"random_seed": 1.5}, "random_seed: invalid int value: '1.5'"),
        ({"random_seed": None}, "random_seed: give a text or a number, not None"),
        ({"no_stitch": "yes"}, "no_stitch: give True or False, not 'yes'"),
        ({"no_stitch": [True]}, "no_stitch: give True or False, not [True]"),
        ({"max_body_mb": "1 --ttft-ms=5"}, "max_body_mb: '1 --ttft-ms=5' is not a whole number"),
        ({"api-key": "x"}, "there is no option 'api-key': the options are "),
        ({"help": True}, "there is no option 'help': the options are "),
        ({"api_key": ["a", ""]}, "api_key: the key is empty"),
        ({"fault": "429"}, "fault: '429' is not a fault: give KIND=RATE"),
    ],
)
def test_keywords_that_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ProgramError) as caught:
        options.from_keywords(given)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            ["--jitter", "0.5"],
            "jitter varies the time to first token and the inter-token latency: give one of them",
        ),
        (
            ["--fault", "429=0.5", "--fault", "500=0.75"],
            "the rates of the faults are 1.25 in sum, which is more than 1",
        ),
    ],
)
def test_options_that_make_no_sense_together(line: list[str], told: str) -> None:
    with pytest.raises(ProgramError) as caught:
        options.of_route(options.parse(line))
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("--port", "65536"),
        ("--port", "x"),
        ("--max-body-mb", "0"),
        ("--ttft-ms", "-1"),
        ("--jitter", "much"),
        ("--fault", "418"),
        ("--fault", "late=0.5"),
    ],
)
def test_what_an_option_refuses(name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        options.parse([f"{name}={text}"])
    assert ended.value.code == 2
    assert f"error: argument {name}: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["--ttft=20", "--max-body=1", "data.json"])
def test_what_is_no_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options.parse([name])
    assert f"unrecognized arguments: {name}" in capsys.readouterr().err


def test_nothing_is_simulated_where_nothing_is_asked_for() -> None:
    assert options.of_route(options.parse([]))["simulation"] is None
    assert options.of_route(options.parse(["--ttft-ms", "0"]))["simulation"] is not None

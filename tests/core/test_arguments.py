"""The types of the command lines' arguments: each text is a value, or refused with what to give instead."""

import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mockchat.core import arguments, recordings


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (arguments.whole_number, "0", 0),
        (arguments.positive_whole_number, "999999999", 999_999_999),
        (arguments.number, "0", 0.0),
        (arguments.number, "1e-3", 0.001),
        (arguments.positive_number, "2.5", 2.5),
        (arguments.api_key, "a key", "a key"),
        (arguments.api_key, " k ", "k"),
        (arguments.base_url, "https://[::1]:80/v1", "https://[::1]:80/v1"),
    ],
)
def test_what_is_taken(kind: Callable[[str], Any], text: str, value: Any) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "texts", "told"),
    [
        (
            arguments.whole_number,
            ["", "-1", "1.0", "+1", "1_0", "٢", "1234567890"],
            "is not a whole number from 0 to 999,999,999",
        ),
        (arguments.positive_whole_number, ["0"], "is not a whole number from 1 to 999,999,999"),
        (arguments.number, ["", "-0.1", "nan", "inf", "1e9", "x"], "is not a number of at least 0"),
        (arguments.positive_number, ["0", "-1", "nan"], "is not a number above 0"),
        (
            arguments.api_key,
            ["", "  ", "a\nb", "k\u00a0"],
            "the key is empty, or has characters that no header can carry",
        ),
        (arguments.upstream_url, ["http://me:secret@127.0.0.1:1/v1"], "the URL names a user: leave it out"),
        (arguments.upstream_url, ["x"], "is not a base URL"),
        (
            arguments.base_url,
            ["", "x", "ftp://x", "http://", "http://x/?a=b", "http://x/#a", "http://a b"],
            "like http://127",
        ),
        (
            arguments.parameter,
            ["", "messages", "model tools", "model,tools", "['model']"],
            "is not a recorded parameter of requests: give one name like model",
        ),
        (
            arguments.parameter,
            ["modle", "Model", "tools\n"],
            r"is not a recorded parameter of requests: did you mean (model|tools)\?",
        ),
    ],
)
def test_what_is_refused(kind: Callable[[str], Any], texts: list[str], told: str) -> None:
    for text in texts:
        with pytest.raises(ArgumentTypeError, match=told):
            kind(text)


@pytest.mark.parametrize("name", ["model", "tools", "top_k", "think", "guided_json"])
def test_what_parameters_may_be_called(name: str) -> None:
    assert arguments.parameter(name) == name


@pytest.mark.parametrize("pattern", ["(", "[a", "*", "a{2}{3}", "(?P<x>"])
def test_what_is_no_regular_expression(pattern: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is not a regular expression"):
        arguments.pattern(pattern)


@pytest.mark.parametrize("pattern", ["", "a*", "x?", "^", "(a|)"])
def test_what_matches_the_empty_text(pattern: str) -> None:
    with pytest.raises(ArgumentTypeError, match="matches the empty text"):
        arguments.pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"(\w+\s?)+:\d+", r"(?:a*b?)*c", r"((a|b+)+)x", r"(\d{1,99})+!", r"(?=(a+)+b)c"),
        *(r"(?:\w\w?)+:", r"(\d|\d\d)+ms", r"(?:\d?\w?)+:", r"(?:a|b|ab)+c", r"x(?:ab|c|a)*b", r"((a|ab)*c)++"),
    ],
)
def test_what_could_take_for_ever(pattern: str) -> None:
    with pytest.raises(ArgumentTypeError, match="repeats what varies, which can take for ever: make the outer"):
        arguments.pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"(?:\w+\s?)++:\d+", r"(?:(?>\d+)\.)+", r"(?:\d{1,3}\.){3}\d+", r"a+b+", r"(ab)?c+", r"(?:a|b)+c"),
        *(r"(?>a|aa)+b", r"(?:\w\w?)++:", r"(?:[0-9a-f]{4}-)+x"),
    ],
)
def test_what_can_not(pattern: str) -> None:
    arguments.pattern(pattern)
    re.sub(pattern, "", "a" * 48 + ":")


def test_recordings() -> None:
    parser = ArgumentParser()
    arguments.add_recordings(parser)
    assert vars(parser.parse_args([])) == {"data": None, "no_stitch": False}
    several = parser.parse_args(["--data", "a", "--data=b", "--no-stitch"])
    assert vars(several) == {"data": [Path("a"), Path("b")], "no_stitch": True}
    assert parser.parse_args(["--data", "sample"]).data == [recordings.DATASETS[-1]]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["my data.json"], "unrecognized arguments: my data.json (for recordings: --data 'my data.json')"),
        (["--data", "a", "b", "c"], "unrecognized arguments: b c (for recordings: --data b)"),
        (["--unknown", "b"], "unrecognized arguments: --unknown b"),
        (["--dat=b"], "unrecognized arguments: --dat=b (did you mean --data?)"),
        (["--no-stich"], "unrecognized arguments: --no-stich (did you mean --no-stitch?)"),
        (["--data"], "argument --data: expected one argument"),
    ],
)
def test_errors_stand_below_one_usage_line(given: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = arguments.new_parser("It does nothing.")
    parser.prog = "program.py"
    arguments.add_recordings(parser)
    with pytest.raises(SystemExit) as ended:
        arguments.parse(parser, given)
    assert ended.value.code == 2
    usage = "usage: program.py [options] (--help lists them)"
    assert capsys.readouterr().err == f"{usage}\nprogram.py: error: {told}\n"

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core.message import read
from mockchat.core.text import common_length, differ, differ_values, difference, excerpt


@given(st.text("ab"), st.text("ab"), st.text("ab"))
def test_common_length(start: str, one: str, other: str) -> None:
    expected = 0
    for pair in zip(start + one, start + other, strict=False):
        if pair[0] != pair[1]:
            break
        expected += 1
    assert common_length(start + one, start + other) == expected
    assert common_length((start + one).encode(), (start + other).encode()) == expected


@pytest.mark.parametrize(
    ("sent", "recorded", "text"),
    [
        ("a b", "a\u00a0b", "differs at character 1: sent 'a b' (U+0020), recorded 'a\\xa0b' (U+00A0)"),
        ("", "hi", "differs at character 0: sent '' (its end), recorded 'hi' (U+0068)"),
        ("hi\u200b", "hi", "differs at character 2: sent 'hi\\u200b' (U+200B), recorded 'hi' (its end)"),
        ("\u0430", "a", "differs at character 0: sent '\u0430' (U+0430), recorded 'a' (U+0061)"),
        ("漢😀!", "漢😀?", "differs at character 2: sent '漢😀!' (U+0021), recorded '漢😀?' (U+003F)"),
        (
            "x" * 50 + "1" + "y" * 50,
            "x" * 50 + "2",
            f"differs at character 50: sent …'{'x' * 30}1{'y' * 29}'… (U+0031), recorded …'{'x' * 30}2' (U+0032)",
        ),
    ],
)
def test_differences_show_what_can_not_be_seen(sent: str, recorded: str, text: str) -> None:
    assert difference(sent, recorded) == text
    assert difference(sent, recorded).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("hello", "hello"),
        (b"hello", "hello"),
        ("", "''"),
        ("a\nb", r"'a\nb'"),
        (b"\xff\x00", r"'\ufffd\x00'"),
        ("x" * 1000, "x" * 1000),
        ("x" * 1001, "x" * 1000 + "…"),
        (b"x" * 10_000_000, "x" * 1000 + "…"),
        ("\n" * 1001, repr("\n" * 1000)[:-1] + r"\u2026'"),
    ],
)
def test_an_excerpt_can_be_printed_on_a_line(text: str | bytes, shown: str) -> None:
    assert excerpt(text) == shown


# Messages and values


def call(name: str = "f", arguments: str = '{"city":"Bern","days":[1,2]}', **more: Any) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}} | more


def image(url: str = "http://x/y.png", **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url} | more}


DATA = "data:image/png;base64," + "A" * 1026


@pytest.mark.parametrize(
    ("sent", "recorded", "place", "text"),
    [
        ({"content": "a"}, {"content": "b"}, "", "differs at character 0: sent 'a' (U+0061), recorded 'b' (U+0062)"),
        (
            {"tool_calls": [call(), call(arguments='{"city":"Basel","days":[1,2]}')]},
            {"tool_calls": [call(), call()]},
            ".tool_calls[1].function.arguments.city",
            "differs at character 1: sent 'Basel' (U+0061), recorded 'Bern' (U+0065)",
        ),
        (
            {"tool_calls": [call(arguments='{"city":"Bern","days":[1,3]}')]},
            {"tool_calls": [call()]},
            ".tool_calls[0].function.arguments.days[1]",
            "differs: sent 3, recorded 2",
        ),
        (
            {"tool_calls": [call(arguments='{"city":"Bern"}')]},
            {"tool_calls": [call()]},
            ".tool_calls[0].function.arguments.days",
            "differs: sent nothing, recorded [1, 2]",
        ),
        (
            {"tool_calls": [call(arguments="{")]},
            {"tool_calls": [call(arguments="[")]},
            ".tool_calls[0].function.arguments",
            "differs at character 0",
        ),
        (
            {"tool_calls": [call(arguments="true")]},
            {"tool_calls": [call(arguments="1")]},
            ".tool_calls[0].function.arguments",
            "differs: sent true, recorded 1",
        ),
        (
            {"tool_calls": [call("g")]},
            {"tool_calls": [call()]},
            ".tool_calls[0].function.name",
            "sent 'g' (U+0067), recorded 'f' (U+0066)",
        ),
        (
            {"tool_calls": [{"custom": {"name": "f", "input": "x"}}]},
            {"tool_calls": [call()]},
            ".tool_calls[0].type",
            "sent 'custom' (U+0063), recorded 'function' (U+0066)",
        ),
        (
            {"function_call": {"name": "f", "arguments": "1"}},
            {"function_call": {"name": "f", "arguments": "2"}},
            ".function_call.arguments",
            "differs: sent 1, recorded 2",
        ),
        (
            {"tool_calls": [call(), call("g", "{}")]},
            {"tool_calls": [call()]},
            ".tool_calls[1]",
            'differs: sent {"type": "function", "function": {"name": "g", "arguments": {}}}, recorded nothing',
        ),
        ({}, {"tool_calls": [call()]}, ".tool_calls", 'differs: sent nothing, recorded [{"type": "function", "func'),
        ({"content": "a"}, {"tool_calls": [call()]}, "", "differs: sent 'a', recorded a call of f"),
        ({"content": ""}, {"content": "a", "tool_calls": [call()]}, "", "differs: sent '', recorded 'a'"),
        (
            {"content": [image(DATA)]},
            {"content": [image(DATA + "B")]},
            ".content[0].image_url.url",
            "differs at character 1048: sent …'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA' (its end), recorded …'AAAAAAA",
        ),
        (
            {"content": [image(detail="low")]},
            {"content": [image(detail="high")]},
            ".content[0].image_url.detail",
            "sent 'low' (U+006C), recorded 'high' (U+0068)",
        ),
        (
            {"content": [image(), image(DATA)]},
            {"content": [image()]},
            ".content[1]",
            'differs: sent {"image_url": {"url": "data:image/png;base64,AAAA',
        ),
        ({"content": [image()]}, {"content": "a"}, "", 'differs: sent [{"image_url": {"url": "http://x/y.png"}'),
    ],
)
def test_the_first_difference_is_told(sent: Any, recorded: Any, place: str, text: str) -> None:
    found, told = differ(*[read({"role": "assistant", **given}).wire for given in (sent, recorded)])
    assert found == place
    assert text in told
    assert DATA not in told
    assert told.isprintable()


def test_the_order_of_keys_is_no_difference() -> None:
    sent = [{"b": 1, "a": 2}, {"c": [1, 2]}]
    assert differ_values(sent, [{"a": 2, "b": 1}, {"c": [1]}], place="tools") == (
        "tools[1].c[1]",
        "differs: sent 2, recorded nothing",
    )
    assert differ_values({"a": None}, {})[1] == 'differs: sent {"a": null}, recorded {}'

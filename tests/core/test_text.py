import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core.text import common_length, difference, excerpt


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

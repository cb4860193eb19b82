import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core import calls
from mockchat.core.calls import Call, Pairing


def function(arguments: str) -> bytes:
    return Call("", calls.FUNCTION, "f", arguments).normal()


@pytest.mark.parametrize(
    "arguments",
    [
        ['{"a":1,"b":[2,null,true]}', '{ "b": [2.0, null, true], "a": 1.0 }', '{"b":[2,null,true],"a":1e0}'],
        ["", "{}", " { } "],
        ['{"n":21.50}', '{"n": 21.5}'],
        ['{"n":1234567890123456789012}', '{"n":1234567890123456789000}'],
        ['{"n":10000000000000000000}', '{"n":1e19}', '{"n":10000000000000000000.0}'],
        ['{"n":-10000000000000000000}', '{"n":-1e19}'],
        ['{"n":1e300}', '{"n":1%s}' % ("0" * 300)],
        ['{"n":0}', '{"n":-0.0}'],
        ['{"s":"é\\/\\u2028"}', '{"s":"\\u00e9/\u2028"}'],
        ['{"s":"\\ud83d\\ude00"}', '{"s":"😀"}', '{"s":"\ud83d\ude00"}'],  # The last has the halves themselves.
        ['{"s":"\\ud800","n":100000000000000000000}', '{"s":"\ud800","n":1e20}'],
        ['{"a":1,"a":2}', '{"a":2}'],
    ],
)
def test_arguments_are_compared_as_json_values(arguments: list[str]) -> None:
    assert len({function(spelled) for spelled in arguments}) == 1


def test_other_arguments_are_others() -> None:
    different = [
        *("{}", "[]", "null", '""', '"{}"', "{", "{]", " ", "NaN", '{"n":1e999}', '{"n":1e998}'),
        *('{"n":1}', '{"n":true}', '{"n":"1"}', '{"n":[1]}', '{"m":1}', "[" * 100_000, "[" * 100_001),
        *('{"s":"\\ud800"}', '{"s":"\\\\ud800"}'),
        *(f'{{"s":"\\ud800","n":{number}}}' for number in (2**53, 2**53 + 1, 2**64 - 1)),
    ]
    assert len({function(spelled) for spelled in different}) == len(different)
    assert Call("", calls.CUSTOM, "f", "{}").normal() != Call("", calls.CUSTOM, "f", "{ }").normal()


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), st.lists))
def test_any_spelling_of_a_value_is_the_value(value: Any) -> None:
    spellings = [json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)]
    assert function(spellings[0]) == function(spellings[1])


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({}, []),
        ({"tool_calls": None}, []),
        ({"tool_calls": [CALL]}, [Call("1", "function", "f", "{}")]),
        ({"tool_calls": [{"function": {"name": "f", "arguments": None}}]}, [Call("", "function", "f", "")]),
        ({"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}, [Call("", "function", "f", '{"a":1}')]),
        ({"tool_calls": [{"id": "2", "custom": {"name": "c", "input": "x"}}]}, [Call("2", "custom", "c", "x")]),
        ({"function_call": {"name": "f", "arguments": "{}"}}, [Call("", "function_call", "f", "{}")]),
    ],
)
def test_calls_are_read(message: Any, expected: list[Call]) -> None:
    assert calls.read(message) == expected


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"tool_calls": {}}, "tool_calls must be a list"),
        ({"tool_calls": ["x"]}, "tool_calls[0] must be an object"),
        ({"tool_calls": [CALL, CALL | {"type": "magic"}]}, "tool_calls[1].type must be function or custom"),
        ({"tool_calls": [{"id": "1"}]}, "tool_calls[0].function must be an object"),
        ({"tool_calls": [CALL | {"id": 3}]}, "tool_calls[0].id must be a string"),
        ({"tool_calls": [{"function": {"name": 3}}]}, "tool_calls[0].function.name must be a string"),
        ({"tool_calls": [{"function": {"name": "", "arguments": 3}}]}, "tool_calls[0].function.arguments must be a "),
        ({"tool_calls": [{"custom": {"name": "", "input": {}}}]}, "tool_calls[0].custom.input must be a string"),
        ({"function_call": "f"}, "function_call must be an object"),
    ],
)
def test_what_is_no_call_is_said(message: Any, told: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        calls.read(message)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"name": "f", "arguments": {"a": 1}}', ["f"]),
        ('[{"name": "f", "arguments": "{}"}, {"name": "g", "arguments": {}}]', ["f", "g"]),
        ('{"name": "f"}', []),
        ('{"name": 3, "arguments": {}}', []),
        ("I call f", []),
        ("7", []),
        ("[]", []),
    ],
)
def test_sharegpt_s_calls_are_read_from_the_text(text: str, names: list[str]) -> None:
    assert [call.name for call in calls.read_text(text)] == names


def paired(ids: list[str], *rows: list[str | None]) -> list[list[tuple[int, str | None, int | None]]]:
    pairing = Pairing()
    pairing.call(ids)
    return [pairing.answer(row) for row in rows]


def test_answers_are_paired_by_id_and_put_in_the_order_of_the_calls() -> None:
    assert paired(["a", "b"], ["a", "b"]) == [[(0, "a", None), (1, "b", None)]]
    assert paired(["a", "b"], ["b", "a"]) == [[(1, "a", None), (0, "b", None)]]
    assert paired(["a", "b"], ["x", None]) == [[(0, "a", None), (1, "b", None)]]
    assert paired(["a", "b"], ["x", "a"]) == [[(1, "a", None), (0, "b", None)]]
    assert paired(["", ""], ["x", "y"]) == [[(0, "", None), (1, "", None)]]
    assert paired(["a", "a"], ["a", "a"]) == [[(0, "a", None), (1, "a", None)]]


def test_an_answer_out_of_turn_or_too_many_is_told_from_others() -> None:
    assert paired(["a", "b"], ["b"]) == [[(0, "b", 1)]]
    assert paired(["a", "b"], ["b"], ["a"]) == [[(0, "b", 1)], [(0, "a", 0)]]
    assert paired(["a"], ["a", "x"]) == [[(0, "a", None), (1, None, None)]]
    assert paired([], ["x"]) == [[(0, None, None)]]


def test_calls_of_messages_that_follow_each_other_are_answered_together() -> None:
    pairing = Pairing()
    for call_id in "ab":
        pairing.call([call_id])
    assert [call_id for _, call_id, _ in pairing.answer(["b", "a"])] == ["a", "b"]
    pairing.call(["c"])
    assert [call_id for _, call_id, _ in pairing.answer(["a"])] == ["c"]

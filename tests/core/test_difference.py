from typing import Any

import pytest

from mockchat.core.difference import differ
from mockchat.core.message import read


def call(name: str = "f", arguments: str = '{"city":"Bern","days":[1,2]}', **more: Any) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}} | more


def image(url: str = "http://x/y.png", **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url} | more}


DATA = "data:image/png;base64,AAAA"


@pytest.mark.parametrize(
    ("sent", "recorded", "place", "text"),
    [
        ({"content": "a"}, {"content": "b"}, "", "differs at character 0: sent 'a' (U+0061), recorded 'b' (U+0062)"),
        (
            {"tool_calls": [call(), call(arguments='{"city":"Zürich","days":[1,2]}')]},
            {"tool_calls": [call(), call()]},
            ".tool_calls[1].function.arguments",
            "differs at city: sent 'Zürich', recorded 'Bern'",
        ),
        (
            {"tool_calls": [call(arguments='{"city":"Bern","days":[1,3]}')]},
            {"tool_calls": [call()]},
            ".tool_calls[0].function.arguments",
            "differs at days[1]: sent 3, recorded 2",
        ),
        (
            {"tool_calls": [call(arguments='{"city":"Bern"}')]},
            {"tool_calls": [call()]},
            ".tool_calls[0].function.arguments",
            "differs at days: sent nothing, recorded [1, 2]",
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
            "sent 'g', recorded 'f'",
        ),
        (
            {"tool_calls": [{"custom": {"name": "f", "input": "x"}}]},
            {"tool_calls": [call()]},
            ".tool_calls[0].type",
            "sent custom, recorded function",
        ),
        (
            {"function_call": {"name": "f", "arguments": "1"}},
            {"function_call": {"name": "f", "arguments": "2"}},
            ".function_call.arguments",
            "differs: sent 1, recorded 2",
        ),
        ({"tool_calls": [call(), call()]}, {"tool_calls": [call()]}, ".tool_calls[1]", "is a call too many: "),
        ({}, {"tool_calls": [call()]}, ".tool_calls", "lacks a call at 0: "),
        (
            {"content": [image(DATA)]},
            {"content": [image(DATA + "B")]},
            ".content[0]",
            "differs at image_url.url: sent 26 bytes (sha256 ",
        ),
        (
            {"content": [image(detail="low")]},
            {"content": [image(detail="high")]},
            ".content[0]",
            "differs at image_url.detail: sent 'low', recorded 'high'",
        ),
        (
            {"content": [{"type": "input_audio", "input_audio": {"data": "AA"}}]},
            {"content": [{"type": "input_audio", "input_audio": {"data": "BB"}}]},
            ".content[0]",
            "recorded 2 bytes (sha256 ",
        ),
        ({"content": [image(), image()]}, {"content": [image()]}, ".content[1]", "is a part too many: image_url"),
        ({"content": [image()]}, {"content": [image(), image()]}, ".content", "lacks a part at 1: image_url"),
    ],
)
def test_the_first_difference_is_told(sent: Any, recorded: Any, place: str, text: str) -> None:
    found = differ(*[read({"role": "assistant", **given}).wire for given in (sent, recorded)])
    assert found.place == place
    assert text in found.text
    assert DATA not in found.text
    assert found.text.isprintable()

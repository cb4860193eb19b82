"""The server's options, on its command line and as keyword arguments: the same names, checks and defaults."""

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
    default, parsed = vars(options.from_keywords({})), vars(options.parse([]))
    assert default == {name: parsed[name] for name in default}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"ttft": 5},
            "there is no option 'ttft': did you mean 'ttft_ms'? The options are max_body_mb, max_memory_mb, ",
        ),
        ({"port": 80}, "there is no option 'port': the options are max_body_mb, "),
        ({"ttft_ms": "x"}, "ttft_ms: 'x' is no number of at least 0"),
        ({"ttft_ms": [1, 2]}, "ttft_ms: give one value, not 2"),
        ({"ttft_ms": True}, "ttft_ms: 'True' is no number"),
        ({"api_key": ["a", ""]}, "api_key: it is empty"),
        ({"fault": "429"}, "fault: '429' is none: give 429=RATE"),
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
            "jitter varies the time to first token and the inter-token latency: give one of them too",
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


def test_nothing_is_simulated_where_nothing_is_asked_for() -> None:
    assert options.of_route(options.parse([]))["simulation"] is None
    assert options.of_route(options.parse(["--ttft-ms", "0"]))["simulation"] is not None

"""A picture can be drawn of any run."""

from array import array
from pathlib import Path

import pytest

from mockchat.requester import plot
from mockchat.requester.result import Result
from tests.requester.test_report import FAILURES

# What the lowest version of matplotlib uses, the newest pyparsing deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:'\w+' deprecated - use:DeprecationWarning")


# What the lowest version of matplotlib uses, the newest pyparsing deprecates.
@pytest.mark.filterwarnings(r"ignore:'\w+' .*deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    "result",
    [
        Result(),
        Result(failures=FAILURES),
        Result(passed=1, due=array("d", [0]), latencies=array("d", [0.1])),
        Result(passed=2, due=array("d", [0, 1]), latencies=array("d", [0.1, 0.3]), gaps=array("d", [0.0, 0.1])),
    ],
)
def test_a_picture_of_few_requests_or_none(result: Result, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot.draw(result, "$x_{$", tmp_path / "run.svg")
    assert (tmp_path / "run.svg").read_bytes().startswith(b"<?xml")

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.requester.figures import in_ms, latency_ms, percentile, significant


def test_percentiles() -> None:
    ordered = list(range(1, 101))
    assert [percentile(ordered, percent) for percent in (0, 1, 50, 99, 100)] == [1, 1, 50, 99, 100]
    assert percentile([7.0], 50) == 7.0
    assert percentile([], 99) == 0


@given(st.lists(st.floats(0, 100), min_size=1), st.integers(0, 100))
def test_a_percentile_is_reached_by_its_share_and_no_less(values: list[float], percent: int) -> None:
    ordered = sorted(values)
    found = percentile(ordered, percent)
    assert sum(value <= found for value in ordered) * 100 >= percent * len(ordered)
    assert sum(value < found for value in ordered) * 100 <= percent * len(ordered)


def test_latencies_are_milliseconds() -> None:
    assert latency_ms([0.001 * number for number in range(100, 0, -1)]) == {
        "min": 1.0,
        "mean": 50.5,
        "p50": 50.0,
        "p90": 90.0,
        "p95": 95.0,
        "p99": 99.0,
        "max": 100.0,
    }
    assert in_ms(0.0000123456789) == 0.012346


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"),
        (1e-300, "0.000000"),
        (0.0004, "0.000400"),
        (0.11, "0.110"),
        (0.9996, "1.00"),
        (2.664, "2.66"),
        (99.96, "100"),
        (1234.4, "1,234"),
        (1e7, "10,000,000"),
    ],
)
def test_figures_have_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text

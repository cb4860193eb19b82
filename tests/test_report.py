import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.replay import ERROR, MISMATCHED, NOT_FOUND, Failure, Result
from mockchat.report import as_json, latency_ms, percentile, summary


def result(passed: int = 3, *failures: Failure) -> Result:
    found = Result(passed=passed, failures=list(failures), elapsed=2.0)
    found.latencies.extend([0.001 * number for number in range(1, 101)])
    return found


FAILURES = [
    Failure("a", 1, NOT_FOUND, "status 404: nothing"),
    Failure("b", 3, MISMATCHED, "differs"),
    Failure("c", 5, ERROR, "cut off"),
    Failure("d", 7, ERROR, "cut off"),
]


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
    assert latency_ms(result().latencies) == {
        "min": 1.0,
        "mean": 50.5,
        "p50": 50.0,
        "p90": 90.0,
        "p95": 95.0,
        "p99": 99.0,
        "max": 100.0,
    }
    assert set(latency_ms([]).values()) == {0}


def test_json_has_the_promised_keys() -> None:
    assert as_json(result(3, *FAILURES), 9, 2) == {
        "requests": 7,
        "conversations": 9,
        "passed": 3,
        "not_found": 1,
        "mismatched": 1,
        "errors": 2,
        "elapsed_s": 2.0,
        "requests_per_s": 3.5,
        "concurrency": 2,
        "latency_ms": latency_ms(result().latencies),
        "failures": [dict(zip(Failure._fields, failure, strict=True)) for failure in FAILURES],
    }
    assert as_json(Result(), 0, 1)["requests_per_s"] == 0


def test_streams_have_the_time_to_the_first_token() -> None:
    found = result()
    found.first_tokens.extend([0.002, 0.004])
    assert as_json(found, 9, 2)["ttft_ms"]["max"] == 4.0
    assert "First token  p50 2.00, p90 4.00" in summary(found, 9, 2)
    assert "First token" not in summary(result(), 9, 2)


def test_the_summary_of_a_clean_run() -> None:
    lines = summary(result(), 9, 2).splitlines()
    assert lines[0].split() == ["Requests", "3", "over", "9", "conversations"]
    assert lines[-1] == "All 3 replies verified."
    assert "Failures" not in summary(result(), 9, 2)
    assert max(map(len, lines)) <= 80


def test_the_summary_shows_the_first_ten_failures() -> None:
    text = summary(result(3, *FAILURES * 5), 9, 2)
    assert "Failures (the first 10 of 20):" in text
    assert text.count(" in conversation ") == 10
    assert "  mismatched in conversation b, message 3: differs" in text
    assert text.endswith("FAILED: 20 of 23 requests.")


@pytest.mark.parametrize(("passed", "text"), [(0, "the 0 answers so far"), (5, "the 5 answers so far are verified.")])
def test_the_summary_of_an_interrupted_run(passed: int, text: str) -> None:
    found = Result(passed=passed, interrupted=True)
    assert text in summary(found, 9, 2)

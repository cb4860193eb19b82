import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.requester.plan import Load
from mockchat.requester.report import as_json, first_failure, latency_ms, percentile, significant, summary, verdict
from mockchat.requester.result import Failure, Result
from mockchat.requester.verify import ERROR, MISMATCHED, NOT_FOUND, Problem

LOAD = Load(concurrency=2)
STREAMS = Load(concurrency=2, stream=True)
FAILURES = [
    Failure("a", 1, 0.5, 0.25, Problem(NOT_FOUND, "status 404", "nothing")),
    Failure("b", 3, 0.6, 0.25, Problem(MISMATCHED, "another text", "differs")),
    Failure("c", 5, 0.7, 0.25, Problem(ERROR, "cut-off answer", "word " * 100)),
    Failure("d", 7, 0.8, 0.25, Problem(ERROR, "cut-off answer", "again")),
    Failure("e", 9, 0.9, 0.25, Problem(ERROR, "status 500", "oh")),
]


def result(passed: int = 3, *failures: Failure) -> Result:
    found = Result(passed=passed, failures=list(failures), bytes_sent=12_345, bytes_received=999)
    found.elapsed = found.sending = 2.0
    found.in_flight, found.most_in_flight = 3.5, 2
    found.latencies.extend([0.001 * number for number in range(1, 101)])
    return found


def test_streams_have_the_times_of_their_tokens_in_the_summary() -> None:
    found = result()
    found.first_tokens.extend([0.002, 0.004])
    found.gaps.extend([0.01, 0.02, 0.03])
    text = summary(found, 9, STREAMS)
    assert "Time to first token, ms" in text
    assert "Inter-token latency, ms" in text
    assert "token" not in summary(result(), 9, LOAD)


def test_the_summary_of_a_clean_run() -> None:
    lines = summary(result(), 9, LOAD).splitlines()
    assert lines[0].split() == ["Requests", "3", "over", "9", "conversations"]
    assert "Elapsed      2.00 s" in lines
    assert "Requests/s   1.50" in lines
    assert "In flight    1.75 on average, 2 at most (limit 2)" in lines
    assert "Bytes        12.3kB sent, 999B received" in lines
    assert "not_found" not in "".join(lines)
    assert verdict(result(), LOAD) == "All 3 replies verified."


def bars(text: str) -> list[tuple[float, int]]:
    """The rows of a histogram: the upper edge in ms, and the number of requests."""
    rows = [line.split() for line in text.splitlines() if " |" in line]
    return [(float(row[0].replace(",", "")), int(row[-1].replace(",", ""))) for row in rows]


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=300))
def test_every_latency_stands_in_one_row_of_the_histogram(latencies: list[float]) -> None:
    found = Result(passed=len(latencies), elapsed=1.0)
    found.latencies.extend(latencies)
    text = summary(found, 1, LOAD)
    rows = bars(text)
    assert sum(count for _, count in rows) == len(latencies)
    assert [edge for edge, _ in rows] == sorted(edge for edge, _ in rows)
    assert rows[-1][0] == pytest.approx(1000 * max(latencies), rel=0.01, abs=1e-3)
    assert max(map(len, text.splitlines())) < 80


def test_a_slow_answer_does_not_squeeze_the_others() -> None:
    found = result()
    found.latencies.extend([0.001 * number for number in range(1, 101)] * 2 + [100.0])
    rows = bars(summary(found, 9, LOAD))
    assert len([count for _, count in rows if count]) == 11
    assert len({edge for edge, _ in rows}) == 11
    assert rows[-1] == (100_000.0, 1)


def test_failures_are_grouped_and_the_first_of_each_is_told_in_full() -> None:
    text = summary(result(3, *FAILURES), 9, LOAD)
    assert (
        "1 x not_found: status 404 (p50 250 ms, max 250 ms)\n  first in conversation a, message 1:\n  nothing" in text
    )
    assert (
        "2 x error: cut-off answer (p50 250 ms, max 250 ms)\n  first in conversation c, message 5:\n  word word" in text
    )
    assert "1 x error: status 500" in text
    assert "again" not in text
    assert text.count("word") == 100
    assert max(map(len, text.splitlines())) < 80
    assert verdict(result(3, *FAILURES), LOAD) == "FAILED: 5 of 8 requests."
    assert first_failure(FAILURES[1]) == "mismatched: another text, first in conversation b, message 3: differs"


def test_failures_have_times_of_their_own() -> None:
    late = Failure("f", 1, 1.0, 60.0, Problem(ERROR, "cut-off answer", "late"))
    lines = summary(result(3, *FAILURES, late), 9, LOAD).splitlines()
    assert [line for line in lines if " x " in line] == [
        "3 x error: cut-off answer (p50 250 ms, max 60,000 ms)",
        "1 x error: status 500 (p50 250 ms, max 250 ms)",
        "1 x mismatched: another text (p50 250 ms, max 250 ms)",
        "1 x not_found: status 404 (p50 250 ms, max 250 ms)",
    ]
    figures = lines[lines.index("Latency, ms") + 2]
    assert figures.split() == ["1.00", "50.5", "50.0", "90.0", "95.0", "99.0", "100"]


def test_where_nothing_was_answered_there_is_no_latency() -> None:
    found = Result(failures=FAILURES, elapsed=1.0, sending=1.0)
    assert "Latency, ms" not in summary(found, 9, LOAD)


def test_edges_that_lie_close_together_are_told_apart() -> None:
    found = Result(passed=100, elapsed=1.0, sending=1.0)
    found.latencies.extend([0.2 + 0.00001 * number for number in range(100)])
    rows = bars(summary(found, 1, LOAD))
    assert len({edge for edge, _ in rows}) == 11
    assert rows[-1] == (200.99, 1)


@pytest.mark.parametrize(("cpu", "told"), [(1.7, False), (1.9, True), (2.1, True)])
def test_it_says_when_the_requester_was_the_limit(cpu: float, told: bool) -> None:
    found = result()
    found.cpu = cpu
    nobody = Result(elapsed=2.0, cpu=cpu)
    assert "the limit" not in summary(nobody, 9, LOAD)
    assert ("it was the limit, not the server" in summary(found, 9, LOAD)) == told


def test_several_processes_are_the_limit_when_they_keep_as_many_cores_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    found, load = result(), Load(concurrency=4, processes=4)
    found.cpu = 2.0 * 3 * 0.95
    for cores, told in ((2, True), (3, True), (4, False), (8, False), (None, True)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert ("it was the limit" in summary(found, 9, load)) == told
    assert "at most (limit 4) by 4 processes" in summary(found, 9, load)


def test_processes_that_died_are_a_failure() -> None:
    died = Result(passed=5, lost=["process 1 of 3 was ended by signal 9 (Killed)"])
    assert verdict(died, LOAD) == "FAILED: process 1 of 3 was ended by signal 9 (Killed), and its results are lost."
    died.failures.append(FAILURES[0])
    died.lost.append("process 2 of 3 ended with exit status 1")
    assert verdict(died, LOAD) == (
        "FAILED: 1 of 6 requests; process 1 of 3 was ended by signal 9 (Killed), and its results are lost; "
        "process 2 of 3 ended with exit status 1, and its results are lost."
    )


def test_the_rate_asked_for_stands_beside_the_one_reached() -> None:
    for rate, told in ((50, "1.50 of 50 asked for"), (1e6, "1.50 of 1,000,000 asked for")):
        assert f"Requests/s   {told}" in summary(result(), 9, Load(concurrency=2, rate=rate)).splitlines()


@pytest.mark.parametrize(
    ("sending", "told"), [(1.99, "2.00 s"), (1.9, "2.00 s, of which 0.100 s for the last answers")]
)
def test_the_time_for_the_last_answers_is_told_where_it_is_long(sending: float, told: str) -> None:
    found = result()
    found.sending = sending
    assert f"Elapsed      {told}" in summary(found, 9, LOAD).splitlines()


def test_how_many_attempts_it_took_is_told_where_there_may_be_several() -> None:
    found = result(1000, *FAILURES)
    found.attempts.update({3: 2, 2: 7, 1: 996})
    load = Load(concurrency=2, retries=5)
    assert "Attempts     1: 996; 2: 7; 3: 2" in summary(found, 9, load).splitlines()
    assert "Attempts" not in summary(found, 9, LOAD)
    found.attempts.update(dict.fromkeys(range(4, 30), 30))
    assert max(map(len, summary(found, 9, load).splitlines())) < 80


@pytest.mark.parametrize(("passed", "text"), [(0, "the 0 answers so far"), (5, "the 5 answers so far are verified.")])
def test_the_verdict_on_an_interrupted_run(passed: int, text: str) -> None:
    assert text in verdict(Result(passed=passed, interrupted=True), LOAD)


def test_a_limit_in_flight_that_kept_the_rate_down_is_told_with_what_to_give() -> None:
    """Twenty answers a second that take half a second each need ten requests in flight."""
    slow = Result(passed=40, elapsed=10.0, sending=10.0, in_flight=20.0, most_in_flight=2)
    told = "--concurrency kept the rate down to 4.00 a second: give 10 or more."
    assert verdict(slow, Load(concurrency=2, rate=20)) == f"All 40 replies verified. {told}"
    slow.passed = 39
    slow.failures.append(FAILURES[0])
    assert verdict(slow, Load(concurrency=2, rate=20, keep_going=True)) == f"FAILED: 1 of 40 requests. {told}"
    slow.in_flight = 1.0
    assert "give 3 or more" in verdict(slow, Load(concurrency=2, rate=20))


@pytest.mark.parametrize(
    ("load", "rate"),
    [(Load(concurrency=3, rate=20), 4), (Load(concurrency=2), 4), (Load(concurrency=2, rate=20), 19.9)],
)
def test_else_the_verdict_says_nothing_of_the_rate(load: Load, rate: float) -> None:
    kept = Result(passed=1000, elapsed=1000 / rate, sending=1000 / rate, in_flight=20.0, most_in_flight=2)
    assert verdict(kept, load) == "All 1,000 replies verified."


def test_an_id_can_say_nothing_but_itself() -> None:
    """Not a verdict on a line of its own, nor colours."""
    bad = Failure("a\nAll 5 replies verified.\x1b[32m", 1, 0.0, 0.0, Problem(NOT_FOUND, "status 404", "nothing"))
    for told in (summary(result(3, bad), 9, LOAD), first_failure(bad)):
        assert r"first in conversation 'a\nAll 5 replies verified.\x1b[32m', message 1:" in told
        assert told.replace("\n", "").isprintable()
        assert "\nAll" not in told


# Figures


def test_percentiles() -> None:
    ordered = list(range(1, 101))
    assert [percentile(ordered, percent) for percent in (0, 1, 50, 99, 100)] == [1, 1, 50, 99, 100]
    assert percentile([7.0], 50) == 7.0


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
    assert latency_ms([0.0000123456789])["p50"] == 0.012346
    assert latency_ms([]) == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"),
        (0.0000499, "4.99e-05"),
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


# The JSON


def test_json_has_the_promised_keys() -> None:
    found = as_json(result(3, *FAILURES), 9, LOAD)
    assert json.loads(json.dumps(found)) == {
        "version": 2,
        "requests": 8,
        "conversations": 9,
        "passed": 3,
        "not_found": 1,
        "mismatched": 1,
        "errors": 3,
        "interrupted": False,
        "processes": 1,
        "lost_processes": [],
        "elapsed_s": 2.0,
        "sending_s": 2.0,
        "drain_s": 0.0,
        "cpu_s": 0.0,
        "requests_per_s": 4.0,
        "concurrency": 2,
        "in_flight": {"mean": 1.75, "max": 2},
        "rate": None,
        "retries": 0,
        "attempts": {},
        "bytes_sent": 12345,
        "bytes_received": 999,
        "latency_ms": latency_ms(result().latencies),
        "failure_latency_ms": latency_ms([0.25] * 5),
        "failures": found["failures"],
    }
    assert found["failures"][0] == {
        "conversation_id": "a",
        "message_index": 1,
        "at_s": 0.5,
        "latency_ms": 250.0,
        "kind": "not_found",
        "cause": "status 404",
        "detail": "nothing",
    }


def test_where_nothing_was_timed_there_are_no_figures() -> None:
    found = as_json(Result(), 0, STREAMS)
    assert [found[name] for name in ("latency_ms", "failure_latency_ms", "ttft_ms", "itl_ms")] == [None] * 4
    assert found["requests_per_s"] == found["in_flight"]["mean"] == 0


def test_requests_a_second_are_those_while_they_were_sent() -> None:
    found = result(1000)
    found.elapsed, found.sending = 12.5, 10.0
    told = as_json(found, 9, Load(concurrency=2, rate=100, duration=10))
    assert [told[name] for name in ("elapsed_s", "sending_s", "drain_s", "requests_per_s")] == [12.5, 10, 2.5, 100]


def test_streams_have_the_times_of_their_tokens() -> None:
    found = result()
    found.first_tokens.extend([0.002, 0.004])
    found.gaps.extend([0.01, 0.02, 0.03])
    report = as_json(found, 9, STREAMS)
    assert (report["ttft_ms"]["max"], report["itl_ms"]["mean"]) == (4.0, 20.0)


def test_attempts_and_lost_processes() -> None:
    found = result(1000, *FAILURES)
    found.attempts.update({3: 2, 2: 7, 1: 996})
    found.lost.append("process 1 of 3 was ended by signal 9 (Killed)")
    told = as_json(found, 9, Load(concurrency=2, retries=5))
    assert (told["attempts"], told["retries"]) == ({1: 996, 2: 7, 3: 2}, 5)
    assert told["lost_processes"] == found.lost

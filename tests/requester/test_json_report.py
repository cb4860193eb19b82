import json

from mockchat.requester.figures import latency_ms
from mockchat.requester.json_report import as_json
from mockchat.requester.plan import Load
from mockchat.requester.result import Result
from tests.requester.test_report import FAILURES, LOAD, STREAMS, result


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
        "attempts": {"1": 8},
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
    found.retried.update({3: 2, 2: 7})
    found.lost.append("process 1 of 3 was ended by signal 9 (Killed)")
    told = as_json(found, 9, Load(concurrency=2, retries=5))
    assert (told["attempts"], told["retries"]) == ({1: 996, 2: 7, 3: 2}, 5)
    assert told["lost_processes"] == found.lost

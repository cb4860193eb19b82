from mockchat.requester.result import Failure, Result, merged
from mockchat.requester.verify import ERROR, Problem


def failure(at: float) -> Failure:
    return Failure("c", 1, at, 0.5, Problem(ERROR, "no connection", "x"))


def test_results_are_merged_as_if_one_process_had_found_all() -> None:
    results = [Result(passed=number, bytes_sent=10, elapsed=number, cpu=number) for number in (2, 3)]
    for result, at in zip(results, (0.2, 0.1), strict=True):
        result.failures.append(failure(at))
        result.attempts[2] += 1
        result.latencies.append(at)
        result.sending, result.in_flight, result.most_in_flight = 10 * at, 0.5, 4
    whole = merged(results)
    assert (whole.passed, whole.requests, whole.bytes_sent, whole.elapsed, whole.cpu) == (5, 7, 20, 3, 5)
    assert [failure.at for failure in whole.failures] == [0.1, 0.2]
    assert (whole.counts, whole.attempts, list(whole.latencies)) == ({ERROR: 2}, {2: 2}, [0.2, 0.1])
    assert (whole.sending, whole.in_flight, whole.most_in_flight) == (2, 1, 8)
    assert merged([]) == Result()


def test_what_follows_from_its_times() -> None:
    result = Result(passed=20, elapsed=5.0, sending=4.0, in_flight=10.0, most_in_flight=3)
    assert (result.rate, result.drain, result.mean_in_flight) == (5, 1, 2)
    result.sending = 8.0  # At a rate, the last request's interval may be longer than its answer takes.
    assert (result.rate, result.drain) == (2.5, 0)
    result.in_flight = 15.001  # A few microseconds too many: no mean is above the most.
    assert result.mean_in_flight == 3
    assert (Result().rate, Result().drain, Result().mean_in_flight) == (0, 0, 0)

from mockchat.requester.result import Failure, Result, merged
from mockchat.requester.verify import ERROR, Problem


def failure(at: float) -> Failure:
    return Failure("c", 1, at, Problem(ERROR, "no connection", "x"))


def test_results_are_merged_as_if_one_process_had_found_all() -> None:
    results = [Result(passed=number, bytes_sent=10, elapsed=number, cpu=number) for number in (2, 3)]
    for result, at in zip(results, (0.2, 0.1), strict=True):
        result.failures.append(failure(at))
        result.counts[ERROR] += 1
        result.retried[2] += 1
        result.latencies.append(at)
    whole = merged(results)
    assert (whole.passed, whole.requests, whole.bytes_sent, whole.elapsed, whole.cpu) == (5, 7, 20, 3, 5)
    assert [failure.at for failure in whole.failures] == [0.1, 0.2]
    assert (whole.counts, whole.retried, list(whole.latencies)) == ({ERROR: 2}, {2: 2}, [0.2, 0.1])
    assert merged([]) == Result()

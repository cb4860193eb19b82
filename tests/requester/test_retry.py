import aiohttp
import pytest
from aiohttp.http import HttpProcessingError
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from mockchat.requester.exchange import Answer
from mockchat.requester.run import wait_to_retry
from mockchat.requester.verify import ERROR, MISMATCHED, NOT_FOUND, Problem


def wait(attempts: int, status: int, kind: str = ERROR, cause: str = "x", **headers: str) -> float | None:
    given = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return wait_to_retry(attempts, Answer(status, given, b"", []), Problem(kind, cause, ""))


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529, 599])
def test_what_may_pass_is_tried_again(status: int) -> None:
    assert wait(1, status) is not None


@pytest.mark.parametrize("status", [302, 400, 401, 403, 405, 413, 422])
def test_what_stays_as_it_is_is_not(status: int) -> None:
    assert wait(1, status, Retry_After="1") is None


@pytest.mark.parametrize(("status", "kind"), [(200, ERROR), (200, MISMATCHED), (404, NOT_FOUND)])
def test_a_wrong_answer_never_is_but_a_stream_that_broke_off(status: int, kind: str) -> None:
    assert wait(1, status, kind, Retry_After="1") is None
    assert wait(1, 200, ERROR, "a stream that broke off before [DONE]") is not None


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (aiohttp.ServerDisconnectedError(), True),
        (HttpProcessingError(code=400, message="no HTTP"), True),
        (aiohttp.ClientOSError(104, "reset"), True),
        (aiohttp.ClientPayloadError(), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (aiohttp.InvalidURL("http://a..b"), False),
        (ValueError("a header with a line break"), False),
        (RecursionError(), False),
    ],
)
def test_errors_of_the_network_and_of_time_are(error: Exception, again: bool) -> None:
    assert (wait_to_retry(1, error, Problem(ERROR, "x", "")) is not None) == again


@pytest.mark.parametrize(("attempts", "longest"), [(1, 0.5), (2, 1), (3, 2), (4, 4), (5, 8), (6, 8), (10**9, 8)])
def test_each_wait_is_twice_as_long_up_to_8_s_and_less_by_chance(attempts: int, longest: float) -> None:
    waits = [wait(attempts, 503) or 0 for _ in range(100)]
    assert 0.75 * longest <= min(waits) < max(waits) <= longest


@pytest.mark.parametrize("seconds", ["7", "0.5", "60"])
def test_the_server_s_own_wait_is_kept_to(seconds: str) -> None:
    assert wait(1, 429, Retry_After=seconds) == wait(9, 500, Retry_After=seconds) == float(seconds)


@given(st.text() | st.floats().map(str) | st.sampled_from(["61", "0", "-1", "Thu, 01 Jan 1970 00:00:00 GMT"]))
def test_no_header_makes_it_wait_longer_than_a_minute(value: str) -> None:
    waited = wait(10**6, 503, Retry_After=value)
    assert waited is not None
    assert 0 < waited <= 60

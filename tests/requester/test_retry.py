import time
from email.utils import formatdate

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from mockchat.requester import retry


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529, 599])
def test_what_may_pass_is_tried_again(status: int) -> None:
    assert retry.wait(1, status, {}) is not None
    assert retry.wait(1, status, CIMultiDict({"X-Should-Retry": "false"})) is None
    assert retry.wait(1, status, CIMultiDict({"X-Should-Retry": "perhaps"})) is not None


@pytest.mark.parametrize("status", [302, 400, 401, 403, 405, 413, 422])
def test_what_stays_as_it_is_is_not_unless_the_server_says_so(status: int) -> None:
    assert retry.wait(1, status, {}) is None
    assert retry.wait(1, status, CIMultiDict({"X-Should-Retry": "true"})) is not None


@pytest.mark.parametrize("status", [200, 404])
def test_what_is_to_be_verified_never_is(status: int) -> None:
    assert retry.wait(1, status, CIMultiDict({"X-Should-Retry": "true", "Retry-After": "1"})) is None


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (aiohttp.ServerDisconnectedError(), True),
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
    assert (retry.wait(1, error, {}) is not None) == again


@pytest.mark.parametrize(("attempts", "longest"), [(1, 0.5), (2, 1), (3, 2), (4, 4), (5, 8), (6, 8), (10**9, 8)])
def test_each_wait_is_twice_as_long_up_to_8_s_and_less_by_chance(attempts: int, longest: float) -> None:
    waits = [retry.wait(attempts, 503, {}) or 0 for _ in range(100)]
    assert 0.75 * longest <= min(waits) < max(waits) <= longest


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After": "60"}, 60),
        ({"retry-after-ms": "1"}, 0.001),
        ({"retry-after-ms": "20", "Retry-After": "7"}, 0.02),
        ({"retry-after-ms": "soon", "Retry-After": "7"}, 7),
    ],
)
def test_the_server_s_own_wait_is_kept_to(headers: dict[str, str], seconds: float) -> None:
    assert retry.wait(1, 429, CIMultiDict(headers)) == pytest.approx(seconds)
    assert retry.wait(9, 500, CIMultiDict(headers)) == pytest.approx(seconds)


def test_it_may_be_a_date() -> None:
    wait = retry.wait(1, 503, CIMultiDict({"Retry-After": formatdate(time.time() + 30, usegmt=True)}))
    assert wait is not None
    assert 20 < wait <= 30


@given(
    st.sampled_from(["Retry-After", "retry-after-ms"]),
    st.text()
    | st.floats().map(str)
    | st.sampled_from(["61", "0", "-1", "60001", "Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 99 Jan 99999 00:00:00 GMT"]),
    st.integers(1, 10**6),
)
def test_no_header_makes_it_wait_longer_than_a_minute(name: str, value: str, attempts: int) -> None:
    wait = retry.wait(attempts, 503, CIMultiDict({name: value}))
    assert wait is not None
    assert 0 < wait <= 60

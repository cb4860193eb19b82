"""Error objects."""

import pytest

from mockchat.server.errors import ApiError
from tests.server.recorded import fields


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_error_types(status: int, kind: str) -> None:
    assert fields(ApiError(status, "x\ud800", code="c").body()) == {
        "error": {"message": "x\ud800", "type": kind, "param": None, "code": "c"}
    }

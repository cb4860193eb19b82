"""The errors of the API: https://platform.openai.com/docs/guides/error-codes.

`type` is what clients such as LiteLLM tell errors by.
"""

from collections.abc import Callable
from functools import cached_property
from http import HTTPStatus

from mockchat.core import wire
from mockchat.core.diagnosis import Diagnosis

UPSTREAM = "upstream"  # The code of an error that an upstream answered itself; only people see it.
NOT_RECORDED = "No valid response exists for the given request"

_ERROR_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer other than 200, as OpenAI's error object.

    `param` names the parameter that is wrong, `code` is for programs; both may be None.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    def body(self) -> bytes:
        """The error object: `{"error": {"message", "type", "param", "code"}}`."""
        kind = _ERROR_TYPES.get(self.status) or ("server_error" if self.status >= 500 else "invalid_request_error")
        fields = (wire.text(str(self)), wire.text(kind), _nullable(self.param), _nullable(self.code))
        return b'{"error":{"message":%b,"type":%b,"param":%b,"code":%b}}' % fields


class NotRecorded(ApiError):
    """404: no recording has this history, or none goes on with a reply. As an object it says where and how.

    `diagnose` finds out; `history` is in wire form, as it is compared.
    """

    def __init__(self, diagnose: Callable[[], Diagnosis], history: bytes) -> None:
        super().__init__(HTTPStatus.NOT_FOUND, NOT_RECORDED, code="no_recorded_response")
        self.history = history
        self._diagnose = diagnose

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """Where and how the history left the recordings."""
        return self._diagnose()

    def body(self) -> bytes:
        found = self.diagnosis
        return ApiError(self.status, f"{self}: {found.text}", param=found.param, code=self.code).body()


def _nullable(value: str | None) -> bytes:
    return b"null" if value is None else wire.text(value)

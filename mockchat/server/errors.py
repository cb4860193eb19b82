"""The errors of the API: https://platform.openai.com/docs/guides/error-codes; and what to do about an unknown path."""

import re
from collections.abc import Callable
from functools import cache

from mockchat.core import wire
from mockchat.core.diagnosis import Diagnosis

PATH = "/v1/chat/completions"  # The one route.
UPSTREAM = "upstream"  # The code of an error that the upstream answered: for the log, never sent.
NOT_RECORDED = "No valid response exists for the given request"

# Clients such as LiteLLM distinguish errors by `type`.
_ERROR_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer other than 200, as OpenAI's error object."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param  # The parameter that is wrong.
        self.code = code  # For programs.

    def body(self) -> bytes:
        kind = _ERROR_TYPES.get(self.status) or ("server_error" if self.status >= 500 else "invalid_request_error")
        return wire.json_of({"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}})


class NotRecorded(ApiError):
    """404: the history is not recorded, or no reply follows it. The error object says where and how it differs."""

    def __init__(self, diagnose: Callable[[], Diagnosis], history: bytes) -> None:
        super().__init__(404, NOT_RECORDED, code="no_recorded_response")
        self.history = history  # In wire form, as it is compared.
        self.diagnosis = cache(diagnose)

    def body(self) -> bytes:
        found = self.diagnosis()
        return ApiError(self.status, f"{self}: {found.text}", param=found.param, code=self.code).body()


def unknown_path(path: str) -> ApiError:
    path = path[:200]  # More takes longer to compare.
    cure = next((f"; {cure}" for pattern, cure in _CURES if re.fullmatch(pattern, path.rstrip("/") or "/")), "")
    return ApiError(404, f"Unknown path {path}: this server has one route, POST {PATH}{cure}")


_BASE_URL = "the base URL ends in /v1"
_CURES = (
    (
        r"(/v1)?/responses(/.*)?",
        "this is the Responses API: ask for chat completions (Agents SDK: OpenAIChatCompletionsModel; Vercel AI SDK: "
        "openai.chat(...); pydantic-ai: openai-chat:MODEL; mirascope: openai/MODEL:completions; "
        "LangChain: use_responses_api=False)",
    ),
    (r"(/v1)?/chat/completions(/v1)?/(chat/completions|models|responses)", f"{_BASE_URL}, without /chat/completions"),
    (r"/chat/completions|/", _BASE_URL),
    (r"(/v1)+/chat/completions", f"{_BASE_URL} once"),
    (r"/openai/.*", "this is Azure's path: use the client for OpenAI, not for Azure (OpenAI, not AzureOpenAI)"),
    (r"(/v1)+/messages(/.*)?", "this is Anthropic's API: use a client of OpenAI's API"),
    (r"/v1beta/.*|(/v1)?/models/[^:]*:.*", "this is Gemini's API: use a client of OpenAI's API"),
    (r"/api/(chat|generate|tags)", "this is Ollama's API: use a client of OpenAI's API"),
    (r"(/v1)?/completions", "legacy completions are not recorded: ask for chat completions"),
)

import pytest

from mockchat.server.errors import PATH, ApiError, unknown_path
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


@pytest.mark.parametrize(
    ("path", "cure"),
    [
        ("/v1/responses", "this is the Responses API: ask for chat completions (Agents SDK: OpenAIChat"),
        ("/v1/responses/resp_1/input_items", "this is the Responses API"),
        ("/responses", "this is the Responses API"),
        ("/chat/completions", "the base URL ends in /v1"),
        ("/chat/completions/", "the base URL ends in /v1"),
        ("/", "the base URL ends in /v1"),
        ("/v1/chat/completions/chat/completions", "the base URL ends in /v1, without /chat/completions"),
        ("/v1/chat/completions/responses", "the base URL ends in /v1, without /chat/completions"),
        ("/v1/v1/chat/completions", "the base URL ends in /v1 once"),
        ("/openai/deployments/gpt-4o/chat/completions", "this is Azure's path: use the client for OpenAI"),
        ("/openai/v1/responses", "this is Azure's path"),
        ("/v1/messages", "this is Anthropic's API"),
        ("/v1/v1/messages/count_tokens", "this is Anthropic's API"),
        ("/v1beta/models/gemini-2.5-flash:generateContent", "this is Gemini's API"),
        ("/api/chat", "this is Ollama's API"),
        ("/v1/completions", "legacy completions are not recorded"),
    ],
)
def test_a_path_of_another_api_names_the_cure(path: str, cure: str) -> None:
    assert str(unknown_path(path)).startswith(f"Unknown path {path}: this server has one route, POST {PATH}; {cure}")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/models", "/favicon.ico", "/v1/responses2", "*", "/\n"])
def test_any_other_path_names_the_route(path: str) -> None:
    assert str(unknown_path(path)) == f"Unknown path {path}: this server has one route, POST {PATH}"


@pytest.mark.parametrize("path", ["/models/", "/v1/models/x", "/v1beta/", "/openai/", "/v1/responses", "/v1", ""])
@pytest.mark.parametrize("more", [":", "/v1", "/responses", "/", "/v1/messages"])
def test_a_path_that_nearly_matches_takes_no_time(path: str, more: str) -> None:
    """A hundred of 8,000 colons took 23 seconds."""
    assert str(unknown_path(path + more * 1_000_000 + "\n")).startswith(f"Unknown path {path}{more}")


def test_a_long_path_is_cut() -> None:
    assert len(str(unknown_path("/" + "x" * 8000))) < 300

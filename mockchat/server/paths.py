"""What to do about an unknown path: the paths of other APIs, and wrong base URLs."""

import re

PATH = "/v1/chat/completions"

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


def unknown(path: str) -> str:
    """Why a path is refused, and what to do, in a line."""
    path = path[:200]  # More takes longer to compare.
    cure = next((cure for pattern, cure in _CURES if re.fullmatch(pattern, path.rstrip("/") or "/")), None)
    problem = f"Unknown path {path}: this server has one route, POST {PATH}"
    return f"{problem}; {cure}" if cure else problem

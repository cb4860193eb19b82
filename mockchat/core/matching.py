"""The parameters of a request beside its messages: which of them are recorded, and which of these must be the same.

Rules that hold here:

- All parameters are recorded but those that say how to send the answer, draw it, or name a person or a secret.
- Values are compared as JSON. A parameter that is null is absent.
- A recording without a request, as in files that no server recorded, matches any request.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mockchat.core import wire
from mockchat.core.index import Replies, Reply

# Of https://platform.openai.com/docs/api-reference/chat/create; and what other servers have.
KNOWN = (
    *("audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens"),
    *("max_tokens", "modalities", "model", "parallel_tool_calls", "prediction", "presence_penalty", "reasoning_effort"),
    *("response_format", "service_tier", "stop", "temperature", "tool_choice", "tools", "top_logprobs", "top_p"),
    *("verbosity", "web_search_options", "min_p", "reasoning", "top_k"),
)
_NOT_RECORDED = re.compile(
    "messages|n|seed|stream|stream_options|user|store"
    "|.*(key|token|secret|password|headers?)|.*(authorization|credential|metadata|identifier|api_base).*",
    re.IGNORECASE,
)


def is_recorded(name: str) -> bool:
    return not _NOT_RECORDED.fullmatch(name)


def recorded(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None and is_recorded(name)}


def of_reply(reply: Reply) -> dict[str, Any] | None:
    """The recorded parameters of the request that a reply answered."""
    if reply.details is None or reply.details.request is None:
        return None
    parameters: dict[str, Any] = wire.loads(reply.details.request)
    return parameters


def differing(reply: Reply, parameters: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The named parameters whose values differ from a reply's. Raises `ValueError` as `wire.canonical_of` does."""
    known = of_reply(reply)
    if known is None:
        return []
    return [name for name in names if wire.canonical_of(parameters.get(name)) != wire.canonical_of(known.get(name))]


def matching(replies: Sequence[Reply], parameters: Mapping[str, Any], names: Sequence[str]) -> list[Reply]:
    """The replies with these values of the named parameters, in the files' order. Raises as `differing` does."""
    ordered = replies.in_file_order() if isinstance(replies, Replies) else replies
    return [reply for reply in ordered if not differing(reply, parameters, names)]

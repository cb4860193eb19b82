"""The requests of real clients in a tool loop: how each spells the history, down to the order of keys.

Each run is one conversation with two rounds of tool calls and a second question. The texts are the same for all; the
shapes are those that OpenAI's SDKs and the frameworks on top of them send. All encode a body as compact JSON.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from tests.helpers import SHARED

Message = dict[str, Any]
Call = dict[str, Any]

SYSTEM = "You plan trips – in one sentence."
RESULTS: dict[str, Any] = {
    "find_train": {"to": "Genève", "price": 39.5, "note": 'über "Bern"', "direct": True, "delay": None},
    "find_hotel": ["Hôtel du Lac", 3],
    "add": 178.9,
}
PLAIN_ARGUMENTS = ('{"to":"Genève","n":2}', '{"filter":{"near":"Gare Cornavin","stars":[3,4.0,null]},"limit":3}')
HARD_ARGUMENTS = (
    '{"n":2,"to":"Genève"}',
    '{"limit":3,"filter":{"b":1,"10":2,"2":3,"big":98765432109876543210,"f":1.0,"e":1e3,"s":"\\u00e9\\/<&>\\u2028"}}',
)


class Exchange(NamedTuple):
    """A request as it is sent, and the assistant message and finish reason that answer it."""

    request: str
    message: Message
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Client:
    """How a client spells an assistant message, a call's result, and what stands around the messages."""

    assistant: Callable[[Message], Message]
    tool: Callable[[Call], Message]
    before: Message = field(default_factory=lambda: {"model": "gpt-4o"})
    after: Message = field(default_factory=dict)
    stream: bool = False
    content_first: tuple[str, ...] = ()  # Roles whose messages are spelled so.


def replies(arguments: tuple[str, str]) -> list[Message]:
    """What the model says, in turn."""
    first, second = arguments
    return [
        {"content": None, "tool_calls": [call("call_a", "find_train", first), call("call_b", "find_hotel", second)]},
        {"content": "Let me add that up – wait.", "tool_calls": [call("call_c", "add", '{"a": 39.50, "b": 139.40}')]},
        {"content": "Take the train: 178.90 Fr. in all."},
        {"content": "Bon voyage!"},
    ]


def call(call_id: str, name: str, arguments: str) -> Call:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


# How calls are spelled


def id_type_name(call: Call) -> Call:
    return call


def type_id_name(call: Call) -> Call:
    return {"type": "function", "id": call["id"], "function": call["function"]}


def type_name_id(call: Call) -> Call:
    return {"type": "function", "function": call["function"], "id": call["id"]}


def arguments_first(call: Call) -> Message:
    return {"arguments": call["function"]["arguments"], "name": call["function"]["name"]}


def id_arguments_type(call: Call) -> Call:
    return {"id": call["id"], "function": arguments_first(call), "type": "function"}


def id_type_arguments(call: Call) -> Call:
    return {"id": call["id"], "type": "function", "function": arguments_first(call)}


def arguments_id_type(call: Call) -> Call:
    return {"function": arguments_first(call), "id": call["id"], "type": "function"}


def parsed(call: Call) -> Call:
    function = arguments_first(call) | {"parsed_arguments": None}
    return {"id": call["id"], "function": function, "type": "function", "index": int(call["id"] == "call_b")}


def spelled_anew(call: Call, ensure_ascii: bool = False) -> Call:
    """The arguments decoded and encoded again by Python's json."""
    arguments = json.dumps(json.loads(call["function"]["arguments"]), ensure_ascii=ensure_ascii)
    return call | {"function": {"name": call["function"]["name"], "arguments": arguments}}


# How assistant messages are spelled


def in_order(*keys: str, spell: Callable[[Call], Call], **fields: Any) -> Callable[[Message], Message]:
    """These keys in this order, as far as the message or `fields` has them."""

    def assistant(said: Message) -> Message:
        has = {"role": "assistant"} | fields | said
        if "tool_calls" in said:
            has["tool_calls"] = [spell(call) for call in said["tool_calls"]]
        return {key: has[key] for key in keys if key in has}

    return assistant


def no_empty_content(spell: Callable[[Call], Call], *first: str, **fields: Any) -> Callable[[Message], Message]:
    """Like `in_order`, but without a content that is null."""
    whole = in_order(*first, "tool_calls", *fields, spell=spell, **fields)
    return lambda said: {key: value for key, value in whole(said).items() if key != "content" or value is not None}


# How results are spelled


def as_json(result: Any) -> str:
    return json.dumps(result)


def as_compact_json(result: Any) -> str:
    return json.dumps(result, separators=(",", ":"), ensure_ascii=False)


def as_json_unescaped(result: Any) -> str:
    return json.dumps(result, ensure_ascii=False)


def tool(*keys: str, spell: Callable[[Any], str]) -> Callable[[Call], Message]:
    """The message of a tool with these keys, in this order."""

    def message(call: Call) -> Message:
        name = call["function"]["name"]
        has = {"role": "tool", "tool_call_id": call["id"], "name": name, "content": spell(RESULTS[name])}
        return {key: has[key] for key in keys}

    return message


ROLE_ID = ("role", "tool_call_id", "content")
ROLE_CONTENT = ("role", "content", "tool_call_id")
ROLE_FIRST = ("role", "content", "tool_calls")
DUMPED = ("content", "refusal", "role", "annotations", "audio", "function_call", "tool_calls", "parsed")
NONE: Message = {"refusal": None, "audio": None, "function_call": None, "tool_calls": None}
STREAMED = {"model": "gpt-4o", "stream": True}
PLAIN = {"model": "gpt-4o", "stream": False}

BY_HAND = in_order(*ROLE_FIRST, spell=id_type_name)
PYTHON_TOOL, NODE_TOOL = tool(*ROLE_ID, spell=as_json), tool(*ROLE_ID, spell=as_compact_json)
RUN_TOOLS = Client(in_order(*ROLE_FIRST, spell=id_type_arguments), NODE_TOOL, after={"tool_choice": "auto"})
LANGCHAIN = Client(
    in_order("content", "role", "tool_calls", spell=lambda call: type_id_name(spelled_anew(call))),
    tool("content", "role", "tool_call_id", spell=as_json_unescaped),
    before={},
    after=PLAIN,
    content_first=("system", "user"),
)
LITELLM_TOOL = tool("tool_call_id", "role", "name", "content", spell=as_json)

CLIENTS = {
    "openai-python-object": Client(
        in_order(*DUMPED, spell=id_arguments_type, refusal=None, annotations=[]), PYTHON_TOOL
    ),
    "openai-python-dump": Client(in_order(*DUMPED, spell=id_arguments_type, annotations=[], **NONE), PYTHON_TOOL),
    "openai-python-by-hand-streamed": Client(
        BY_HAND, PYTHON_TOOL, before=STREAMED, after={"stream_options": {"include_usage": True}}, stream=True
    ),
    "openai-python-dump-streamed": Client(
        in_order(*DUMPED, spell=parsed, annotations=None, parsed=None, **NONE),
        PYTHON_TOOL,
        before=STREAMED,
        stream=True,
    ),
    "openai-node": Client(
        in_order(*ROLE_FIRST, "refusal", "annotations", spell=id_type_name, refusal=None, annotations=[]), NODE_TOOL
    ),
    "openai-node-streamed": Client(
        in_order("role", "content", "refusal", "tool_calls", "parsed", spell=id_type_name, refusal=None, parsed=None),
        NODE_TOOL,
        after={"stream": True},
        stream=True,
    ),
    "openai-node-runtools": RUN_TOOLS,
    "openai-node-runtools-streamed": replace(RUN_TOOLS, after={"tool_choice": "auto", "stream": True}, stream=True),
    "openai-agents": Client(BY_HAND, tool(*ROLE_ID, spell=repr), content_first=("system",)),
    "langchain": LANGCHAIN,
    "langchain-streamed": replace(LANGCHAIN, after=STREAMED, stream=True),
    "llama-index": Client(
        in_order(*ROLE_FIRST, spell=type_name_id),
        tool(*ROLE_CONTENT, spell=repr),
        before={},
        after={"model": "gpt-4o", "parallel_tool_calls": True, "stream": False, "tool_choice": "auto"},
    ),
    "haystack": Client(
        no_empty_content(lambda call: type_name_id(spelled_anew(call)), "role", "content"),
        tool(*ROLE_CONTENT, spell=as_json_unescaped),
        before=PLAIN,
        after={"n": 1},
    ),
    "litellm": Client(no_empty_content(arguments_id_type, "content", "role", annotations=[]), LITELLM_TOOL),
    "litellm-streamed": Client(
        no_empty_content(arguments_id_type, "content", "role"), LITELLM_TOOL, after={"stream": True}, stream=True
    ),
    "llm": Client(
        in_order(*ROLE_FIRST, spell=lambda call: type_id_name(spelled_anew(call, ensure_ascii=True))),
        PYTHON_TOOL,
        before=PLAIN,
    ),
}


def exchanges(client: Client, arguments: tuple[str, str]) -> Iterator[Exchange]:
    """The exchanges of one run, in turn."""

    def opening(role: str, text: str) -> Message:
        return {"content": text, "role": role} if role in client.content_first else {"role": role, "content": text}

    messages = [opening("system", SYSTEM), opening("user", "How do I get to Genève, and where do I sleep?")]
    for said in replies(arguments):
        body = client.before | {"messages": messages} | client.after
        request = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
        called = said.get("tool_calls", [])
        yield Exchange(request, {"role": "assistant"} | said, "tool_calls" if called else "stop")
        messages = [*messages, client.assistant(said), *map(client.tool, called)]
        if not called:
            messages.append(opening("user", "thanks"))


def runs() -> dict[str, list[Exchange]]:
    """A run of each client, one with awkward arguments, and those of the recorded files, where these are."""
    found = {name: list(exchanges(client, PLAIN_ARGUMENTS)) for name, client in CLIENTS.items()}
    for name, client in CLIENTS.items():
        if not client.stream:
            found[f"{name}-hard"] = list(exchanges(client, HARD_ARGUMENTS))
    for path in sorted((SHARED / "agents").glob("*.jsonl")):
        lines = map(json.loads, path.read_bytes().splitlines())
        found[f"recorded-{path.stem}"] = [
            Exchange(line["request"], line["message"], line["finish_reason"]) for line in lines
        ]
    return found


RUNS = runs()

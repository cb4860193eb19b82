"""What several tests use: conversations in a line, files of them, a clock, and what there is to ask of recordings."""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestClient

from mockchat.core import wire
from mockchat.core.dataset import load
from mockchat.core.entries import Conversation
from mockchat.core.index import ResponseIndex
from mockchat.core.message import ROLES
from mockchat.server.simulation import Fault, read_fault
from tests.programs import ROOT

SAMPLE = ROOT / "data" / "sample.json"
SHARED = ROOT.parent / "shared" / "data"

Pause = tuple[threading.Event, threading.Event]
WriteDataset = Callable[[Any], Path]
Connect = Callable[[TestClient], Awaitable[Any]]


class Clock:
    """Stands for `time.monotonic`, by which event loops go too: a test has time pass, and need not wait.

    So what is to happen after a minute is tested with a limit of a minute, which no busy machine reaches by itself.
    """

    def __init__(self) -> None:
        self._real = time.monotonic
        self._ahead = 0.0

    def __call__(self) -> float:
        return self._real() + self._ahead

    async def passes(self, seconds: float) -> None:
        """Have this time pass, and all be done that was due by then."""
        self._ahead += seconds
        await asyncio.sleep(0.01)


def conversation(conversation_id: str, *turns: str, first: str = "user") -> Conversation:
    """Turns of user and assistant, alternating; a turn like `system:text` names its role."""
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    messages = []
    for number, turn in enumerate(turns):
        role, mark, content = turn.partition(":")
        if not (mark and role in ROLES):
            role, content = roles[number % 2], turn
        messages.append(wire.message(role, content))
    return Conversation(conversation_id, wire.join(messages))


def faults(*texts: str) -> list[Fault]:
    """Faults as the option `--fault` names them, such as `503=first:2`."""
    return [read_fault(text) for text in texts]


def index_of(*conversations: Conversation) -> ResponseIndex:
    return ResponseIndex(conversations)


def entry(entry_id: str, *values: str) -> dict[str, Any]:
    """An entry of a ShareGPT file, human and gpt alternating."""
    roles = ("human", "gpt")
    return {
        "id": entry_id,
        "conversations": [{"from": roles[number % 2], "value": value} for number, value in enumerate(values)],
    }


def requests_of(path: Path) -> list[dict[str, Any]]:
    """Every request that a file of recordings has an answer to: its `messages`, and the replies `expected`."""
    replies: dict[str, set[str]] = {}
    for found in load(path).conversations:
        messages = [{"role": wire.role_of(message), "content": wire.content_of(message)} for message in found.messages]
        for number, message in enumerate(messages):
            if message["role"] == "assistant":
                replies.setdefault(json.dumps(messages[:number]), set()).add(message["content"])
    return [{"messages": json.loads(asked), "expected": sorted(expected)} for asked, expected in replies.items()]


def request_body(*messages: Sequence[str], **parameters: Any) -> bytes:
    """A request in the wire form of OpenAI's SDK; messages are pairs of role and content."""
    given = [{"role": role, "content": content} for role, content in messages]
    return json.dumps({"messages": given, **parameters}, ensure_ascii=False, separators=(",", ":")).encode()

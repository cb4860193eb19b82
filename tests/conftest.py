"""What several tests use: conversations in a line, files of them, and where the real recordings are."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from hypothesis import settings
from programs import ROOT

from mockchat import wire
from mockchat.dataset import Conversation
from mockchat.index import ResponseIndex

SAMPLE = ROOT / "data" / "sample.json"
SHARED = ROOT.parent / "shared" / "data"

settings.register_profile("patient", deadline=None)  # No test depends on a time measured.
settings.load_profile("patient")

WriteDataset = Callable[[Any], Path]


def conversation(conversation_id: str, *turns: str, first: str = "user") -> Conversation:
    """Turns of user and assistant, alternating; a turn like `system:text` names its role."""
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    messages = []
    for number, turn in enumerate(turns):
        role, mark, content = turn.partition(":")
        if not (mark and role in wire.ROLES):
            role, content = roles[number % 2], turn
        messages.append(wire.message(role, content))
    return Conversation(conversation_id, messages)


def index_of(*conversations: Conversation) -> ResponseIndex:
    return ResponseIndex(conversations)


def entry(entry_id: str, *values: str) -> dict[str, Any]:
    """An entry of a ShareGPT file, human and gpt alternating."""
    roles = ("human", "gpt")
    return {
        "id": entry_id,
        "conversations": [{"from": roles[number % 2], "value": value} for number, value in enumerate(values)],
    }


def request_body(*messages: Sequence[str], **parameters: Any) -> bytes:
    """A request in the wire form of OpenAI's SDK; messages are pairs of role and content."""
    given = [{"role": role, "content": content} for role, content in messages]
    return json.dumps({"messages": given, **parameters}, ensure_ascii=False, separators=(",", ":")).encode()


@pytest.fixture
def write_dataset(tmp_path: Path) -> WriteDataset:
    """Write entries (or raw bytes) to a file and give its path."""

    def write(content: Any) -> Path:
        path = tmp_path / "recordings.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


@pytest.fixture
async def client(aiohttp_client: Any) -> TestClient:
    """A client of a `MockServer`, which knows two conversations."""
    from serving import MockServer

    return await aiohttp_client(MockServer())


Connect = Callable[[TestClient], Awaitable[Any]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Open connections on which every byte is the test's: a `Raw` each, closed in the end."""
    from serving import Raw

    async with AsyncExitStack() as opened:

        async def to(client: TestClient) -> Raw:
            raw = Raw(*await asyncio.open_connection(client.host, client.port, limit=1000))
            opened.callback(raw.writer.close)
            return raw

        yield to


@pytest.fixture
async def raw(client: TestClient, connect: Connect) -> Any:
    """Such a connection to the client's server."""
    return await connect(client)

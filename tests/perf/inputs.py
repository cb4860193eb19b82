"""The recordings and the requests that are measured with: the same ones in each run."""

import json
import random
import sys
from functools import cache
from pathlib import Path
from typing import Any

from mockchat.core import dataset
from mockchat.core.entries import Conversation
from mockchat.core.index import ResponseIndex
from mockchat.core.message import as_object
from mockchat.requester.plan import places, questions
from tests.perf.load import output

HERE = Path(__file__).parent
FILES = HERE.parents[1] / "build" / "perf"
FULL, SOME, FIRST = FILES / "full.json", FILES / "3000.json", FILES / "first-1000.json"
WORDS, TOOLS = FILES / "words.json", FILES / "tools.json"
PROMPTED, PROMPTED_FEW = FILES / "prompted-3000.json", FILES / "prompted-60.json"
PIECES = 251  # Of the one reply there.
MANY, FEW, SHORT = 3000, 1500, 20000  # Requests in a round: real bodies, those that take long, one line.


def make_files() -> None:
    """Make those that are not there yet."""
    FILES.mkdir(parents=True, exist_ok=True)
    for path, options in ((FULL, ()), (SOME, ("--conversations", 3000))):
        if not path.exists():
            print(f"Making {path}", file=sys.stderr)
            output("synthesize.py", path, *options)
    if not FIRST.exists():
        part = FIRST.with_suffix(".part")
        part.write_text(json.dumps(first_entries(1000), ensure_ascii=False), encoding="utf-8")
        part.replace(FIRST)
    if not WORDS.exists():
        reply = " ".join(["word"] * PIECES)
        WORDS.write_text(json.dumps([{"messages": [{"role": "assistant", "content": reply}]}]), encoding="utf-8")
    if not PROMPTED_FEW.exists():
        prompt = {"role": "system", "content": "You answer in one sentence. " * 2341}  # 64 KB
        talks = [{"messages": [prompt, *map(as_object, talk.messages)]} for talk in recorded(SOME)[0]]
        for path, some in ((PROMPTED, talks), (PROMPTED_FEW, talks[:60])):
            path.write_text(json.dumps(some, ensure_ascii=False), encoding="utf-8")
    if not TOOLS.exists():
        TOOLS.write_text(json.dumps([{"messages": loop} for loop in tool_loops()]), encoding="utf-8")


def tool_loops() -> list[list[dict[str, Any]]]:
    """Some of the recorded conversations with a call before each message of the user, which answers it."""
    loops = []
    for talk in recorded(SOME)[0][:FEW]:
        loop = [{"role": "user", "content": "go on"}]
        for number, message in enumerate(talk.messages[:20]):
            if number % 2:
                continue
            text = as_object(message)["content"]
            arguments = json.dumps({"query": text[:80], "limit": number, "exact": True}, ensure_ascii=False)
            function = {"arguments": arguments, "name": "search"}
            call = {"id": f"call_{number:024}", "function": function, "type": "function"}
            loop.append({"role": "assistant", "content": None, "tool_calls": [call]})
            loop.append({"role": "tool", "tool_call_id": call["id"], "content": text})
        loops.append([*loop, {"role": "assistant", "content": "done"}])
    return loops


def first_entries(conversations: int) -> list[Any]:
    """The entries of the first conversations of the full file, where the pieces of each stand together."""
    with FULL.open("rb") as file:
        text = file.read(100_000 * conversations).decode(errors="ignore")
    decoder, position = json.JSONDecoder(), 1
    entries: list[Any] = []
    names: set[str] = set()
    while True:
        entry, position = decoder.raw_decode(text, position)
        names.add(entry["id"].rpartition("_")[0])
        if len(names) > conversations:
            return entries
        entries.append(entry)
        position += len(", ")


@cache
def recorded(path: Path) -> tuple[list[Conversation], ResponseIndex]:
    loaded = dataset.load(path)
    return loaded.conversations, ResponseIndex(loaded.conversations)


def bodies(count: int, path: Path = SOME, stream: bool = False) -> list[bytes]:
    """Bodies as the requester sends them, chosen at random but the same each time; no history is empty."""
    conversations, index = recorded(path)
    chosen = random.Random(1).sample([place for place in places(conversations) if place.number], count)
    return [question.body for question in questions(iter(chosen), index, None, stream)]


def real() -> list[bytes]:
    return bodies(MANY)


def longest() -> list[bytes]:
    """The last request of each conversation of the full file: together they walk along all recordings."""
    conversations, index = recorded(FULL)
    last = {id(place.conversation): place for place in places(conversations) if place.number}
    return [question.body for question in questions(iter(last.values()), index, None, False)]


def one_line() -> list[bytes]:
    """A short body many times: one to which a single reply is right."""
    conversations, index = recorded(SOME)
    asked = questions(places(conversations), index, None, False)
    short = (found for found in asked if found.place.number and len(found.body) < 120)
    return [next(found.body for found in short if len({reply.message for reply in found.expected}) == 1)] * SHORT


def compact(request: dict[str, Any], **options: Any) -> bytes:
    return json.dumps(request, ensure_ascii=False, separators=(",", ":"), **options).encode()


def by_json_dumps() -> list[bytes]:
    return [json.dumps(json.loads(body)).encode() for body in bodies(FEW)]


def by_langchain() -> list[bytes]:
    # Sorted, `content` comes before `role`, as there.
    return [compact(json.loads(body), sort_keys=True) for body in bodies(FEW)]


def by_an_agent() -> list[bytes]:
    """The last request of each tool loop, as OpenAI's Python SDK spells the messages that it was given."""
    asked = []
    for entry in json.loads(TOOLS.read_text(encoding="utf-8")):
        history = entry["messages"][:-1]
        for number, message in enumerate(history):
            if message["role"] == "assistant":
                beside = {"refusal": None, "role": "assistant", "annotations": []}
                history[number] = {"content": None, **beside, "tool_calls": message["tool_calls"]}
        asked.append(compact({"messages": history, "model": "m"}))
    return asked


def by_nobody() -> list[bytes]:
    """A spelling that no client is known to have: indented, keys in the order of the alphabet."""
    return [json.dumps(json.loads(body), indent=1, sort_keys=True).encode() for body in bodies(FEW)]


def misses() -> list[bytes]:
    """Bodies whose last message differs from the recorded one in its last character."""
    requests = [json.loads(body) for body in bodies(FEW)]
    for request in requests:
        last = request["messages"][-1]
        last["content"] = last["content"][:-1] + ("!" if last["content"].endswith("~") else "~")
    return [compact(request) for request in requests]

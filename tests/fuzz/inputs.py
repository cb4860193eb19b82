"""Inputs to begin with, and changes that make sense in them. No fuzzer is needed here: the tests use them too."""

import json
import random
from copy import deepcopy
from typing import Any

from tests.programs import ROOT

SAMPLE = ROOT / "data" / "sample.json"


def seeds(target: str) -> list[bytes]:
    """Inputs to begin with, made of the sample."""
    entries = json.loads(SAMPLE.read_bytes())
    if target == "file":
        pieces = [entries[start : start + 3] for start in range(0, len(entries), 3)]
        arrays = [json.dumps(piece, indent=number % 2 or None) for number, piece in enumerate(pieces)]
        lines = ["\n".join(map(json.dumps, piece)) for piece in pieces]
        return [text.encode() for text in arrays + lines]
    bodies = []
    for entry in entries:
        messages = [
            {"role": _API.get(item["from"], item["from"]), "content": item["value"]} for item in entry["conversations"]
        ]
        for end in range(len(messages)):
            request = {"messages": messages[:end], "model": "m", "stream": end % 2 > 0}
            bodies.append(spelled(request, len(bodies)))
    bodies.sort(key=len)
    if target == "body":
        return [body for body in bodies[:: len(bodies) // 150] if len(body) < 3000]
    return [b"".join(http(body, end % 2 > 0) for body in bodies[end - end % 3 : end]) for end in range(60)]


_API = {"human": "user", "gpt": "assistant"}


def spelled(request: dict[str, Any], number: int) -> bytes:
    """A request in one of eight spellings that programs commonly use; half of them are the wire form."""
    if number % 8 & 1:
        return json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode()
    if number % 8 & 2:
        request = request | {"messages": [dict(reversed(message.items())) for message in request["messages"]]}
    if number % 8 & 4:
        return json.dumps(request).encode()
    return json.dumps(request, separators=(",", ":")).encode()


def http(body: bytes, chunked: bool = False) -> bytes:
    """A request with this body."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    if chunked:
        return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


# Mutations that know what the input is


class _Object(list[tuple[str, Any]]):
    """A JSON object as its pairs: a key may come twice."""


_VALUES = [None, True, 0, -1, 2, 1.5, 129, 2**63, "", "hi", "\ud800", '"', "\n", "é😀", [], _Object(), [[]], 10**400]
_KEYS = "messages role content model stream stream_options include_usage n seed type text id conversations from value"
_ROLES = "user assistant system developer tool function human gpt Human martian"
_JOINTS = (
    rb"""" \ { } [ ] , : " " null - 01 1e9 \u0000 \ud83d },{"role":" {"messages":[{"role":" "}] }]} {"id": },{"id" """
)
_JOINTS_TOO = [b" ", b"\n", b"\0", b"\xff", b"\xed\xa0\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"[" * 1100]
_HTTP = (
    rb"\n|\n\n|0\n\n|GET / HTTP/1.1\n\n|HEAD /v1/chat/completions HTTP/1.1\n\n|HTTP/1.0|CONNECT x:1|OPTIONS *|//|?|#|"
    rb"%zz|http://x/|Connection: close\n|Connection: keep-alive\n|Connection: Upgrade\nUpgrade: websocket\n|"
    rb"Expect: x\n|Expect: 100-continue\n|Content-Length: 5\n|Content-Length: 30000\n|Content-Encoding: gzip\n|"
    rb"Transfer-Encoding: chunked\n|Accept: application/json\n"
)
_PARTS = [*_HTTP.replace(rb"\n", b"\r\n").split(b"|"), b"\n", b"\x80", b"x" * 9000]


def mutated(data: bytes, target: str, chance: random.Random) -> bytes:
    """The input with a few changes that make sense in it."""
    change = {"body": _in_json, "file": _in_json, "connection": _in_http}[target]
    for _ in range(chance.randint(1, 3)):
        data = change(data, chance)
    return data


def _in_http(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    match chance.randrange(4):
        case 0:
            return http(_in_json(data.partition(b"\r\n\r\n")[2], chance), chance.random() < 0.3)
        case 1:
            return data + http(b'{"messages":[]}')
        case 2:
            lines.insert(chance.randint(0, len(lines)), chance.choice([*_PARTS, *lines]))
            return b"".join(lines)
        case _:
            return _inserted(data, chance.choice(_PARTS), chance)


def _in_json(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.7:
        try:
            return _changed([json.loads(data, object_pairs_hook=_Object)], chance)
        except (ValueError, RecursionError):
            pass  # It is no JSON, or too deep.
    return _inserted(data, chance.choice([*_JOINTS.split(), *_JOINTS_TOO]), chance)


def _inserted(data: bytes, part: bytes, chance: random.Random) -> bytes:
    position = chance.randint(0, len(data))
    return data[:position] + part + data[position + chance.choice((0, 0, 1, len(part))) :]


def _changed(root: list[Any], chance: random.Random) -> bytes:
    """The only item of a list as JSON, one value, key or item in it changed, in some spelling."""
    containers: list[Any] = [root]
    for container in containers:
        values = [value for _, value in container] if isinstance(container, _Object) else container
        containers += [value for value in values if isinstance(value, list)]
    container = chance.choice([chance.choice(containers), *containers[1:2]])  # As often as not the outermost.
    position = chance.randint(0, len(container))
    value = deepcopy(chance.choice(chance.choice([_VALUES, _ROLES.split(), containers[1:] or [None]])))
    if isinstance(container, _Object):
        value = (chance.choice(_KEYS.split()), value)
    match chance.randrange(5):
        case 0:
            container.insert(position, value)
        case 1:
            container[position : position + 1] = [value]
        case 2:
            del container[position : position + 1]
        case 3:
            container.insert(position, chance.choice(container or [value]))
        case _:
            pass  # Only the spelling changes.
    text = _spelled(root[0] if root else None, chance.choice(_SPACES), chance.choice((0, 0, 0.1, 1, None)), chance)
    return text.encode("utf-8", "surrogatepass")


# What stands inside brackets, around commas and around colons.
_SPACES = [("", ",", ":")] * 2 + [("", ", ", ": ")] * 2 + [(" ", " , ", " : "), ("\n\t", ",\n", "\t:")]


def _spelled(value: Any, space: tuple[str, str, str], escapes: float | None, chance: random.Random) -> str:
    """Some JSON of a value: its characters escaped with this probability, or None: as `json.dumps` does it."""
    inside, comma, colon = space
    if isinstance(value, _Object):
        if chance.random() < 0.1:
            value = list(reversed(value))
        pairs = (
            _spelled(key, space, escapes, chance) + colon + _spelled(item, space, escapes, chance)
            for key, item in value
        )
        return f"{{{inside}{comma.join(pairs)}{inside}}}"
    if isinstance(value, list):
        return f"[{inside}{comma.join(_spelled(item, space, escapes, chance) for item in value)}{inside}]"
    if isinstance(value, str) and escapes is not None:
        return f'"{"".join([_unit(unit, escapes, chance) for unit in value])}"'
    return json.dumps(value)


def _unit(unit: str, escapes: float, chance: random.Random) -> str:
    if unit < "\U00010000" and chance.random() < escapes:
        return f"\\u{ord(unit):04x}"
    return json.dumps(unit, ensure_ascii=False)[1:-1]

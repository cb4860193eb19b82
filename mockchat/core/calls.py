"""Tool calls, and which call a tool message answers.

Follows https://platform.openai.com/docs/guides/function-calling. Rules that hold here:

- Arguments are compared as JSON values: clients change the order of keys, spaces and escapes. Integers are exact up to
  64 bits, `1.0` is 1, and missing arguments are `{}`. Arguments that are not JSON are compared as text.
- Ids only pair calls and answers: clients without a usable id invent one. A tool message answers the call with its id,
  or else the first pending call; the place of that call is compared.
- Tool messages in a row are sorted by their calls: tools that run at the same time end in any order.
"""

from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from mockchat.core import wire

FUNCTION, CUSTOM, LEGACY = "function", "custom", "function_call"
# By type, the key of the arguments or the input.
TEXT_KEYS = {FUNCTION: "arguments", CUSTOM: "input", LEGACY: "arguments"}

_known = lru_cache(maxsize=4096)(wire.canonical)  # A client sends a call again with each message that follows.
_SHORT = 1024  # characters


class Call(NamedTuple):
    """A call of a tool."""

    id: str  # May be empty.
    type: str  # `function_call` for the API's older key of that name.
    name: str
    text: str  # The arguments or the input.

    def normal(self) -> bytes:
        """The JSON object by which calls are compared."""
        called = b'{"%b":%b' % (self.type.encode(), wire.text(self.name))
        if self.type != CUSTOM:
            try:
                arguments = (_known if len(self.text) < _SHORT else wire.canonical)(self.text or "{}")
                return b'%b,"arguments":%b}' % (called, arguments)
            except ValueError:
                pass
        return b'%b,"text":%b}' % (called, wire.text(self.text))

    def as_object(self) -> dict[str, Any]:
        """The call as the API's object; of an older one, what stands under `function_call`."""
        called = {"name": self.name, TEXT_KEYS[self.type]: self.text}
        return called if self.type == LEGACY else {"id": self.id, "type": self.type, self.type: called}


def read(message: dict[str, Any]) -> list[Call]:
    """The calls of a message. Raises `ValueError` with a place: `tool_calls[0].function.name must be a string`."""
    calls = []
    if (given := message.get("tool_calls")) is not None:
        if not isinstance(given, list):
            raise ValueError("tool_calls must be a list")
        calls = [_read(call, f"tool_calls[{number}]") for number, call in enumerate(given)]
    if (given := message.get(LEGACY)) is not None:
        calls.append(_read({"type": LEGACY, LEGACY: given}, ""))
    return calls


def _read(call: Any, place: str) -> Call:
    if not isinstance(call, dict):
        raise ValueError(f"{place} must be an object")
    call_type = call.get("type") or (CUSTOM if CUSTOM in call else FUNCTION)
    if not (isinstance(call_type, str) and call_type in TEXT_KEYS):
        raise ValueError(f"{place}.type must be {FUNCTION} or {CUSTOM}")
    called = call.get(call_type)
    place_called = f"{place}.{call_type}".lstrip(".")
    if not isinstance(called, dict):
        raise ValueError(f"{place_called} must be an object")
    text_key = TEXT_KEYS[call_type]
    name, text, call_id = called.get("name"), called.get(text_key), call.get("id")
    if not isinstance(name, str):
        raise ValueError(f"{place_called}.name must be a string")
    if isinstance(text, dict) and text_key == "arguments":  # As some files have them.
        text = wire.json_of(text).decode()
    if not isinstance(text, str | None):
        raise ValueError(f"{place_called}.{text_key} must be a string")
    if not isinstance(call_id, str | None):
        raise ValueError(f"{place}.id must be a string")
    return Call(call_id or "", call_type, name, text or "")


def read_text(text: str) -> list[Call]:
    """The calls in a ShareGPT text such as `{"name": "f", "arguments": {}}`, or a list of such; empty for another text.

    https://llamafactory.readthedocs.io/en/latest/getting_started/data_preparation.html
    """
    try:
        given = wire.loads(text.encode(errors="surrogatepass"))
        objects = given if isinstance(given, list) else [given]
        if not all(isinstance(each["arguments"], dict | str) for each in objects):
            return []
        return [_read({FUNCTION: each}, "") for each in objects]
    except (ValueError, KeyError, TypeError):
        return []


class Pairing:
    """Pairs calls and tool messages, message by message of a history."""

    def __init__(self) -> None:
        self._ids: list[str] = []  # Ids of the calls of the last messages with calls, by number.
        self._answered: set[int] = set()  # Numbers of calls.
        self._left: deque[int] = deque()  # Numbers of calls that may be pending; then the same by id.
        self._left_by_id: dict[str, deque[int]] = {}
        self._calling = False  # Whether the last message had calls.

    def call(self, ids: Sequence[str]) -> None:
        """Advance past a non-tool message, whose calls have these ids."""
        if ids:
            if not self._calling:
                self._ids, self._answered, self._left, self._left_by_id = [], set(), deque(), {}
            for number, call_id in enumerate(ids, len(self._ids)):
                self._left.append(number)
                self._left_by_id.setdefault(call_id, deque()).append(number)
            self._ids += ids
        self._calling = bool(ids)

    def answer(self, row: Sequence[str | None]) -> list[tuple[int, str | None, int | None]]:
        """Advance past a row of tool messages that name these ids. Returns them in the order of their calls.

        Each is its number in the row; the id of its call, None if none is pending; the call's number if it is not next.
        """
        self._calling = False
        place = len(self._answered)
        found = [self._take(self._left_by_id.get(call_id)) if call_id else None for call_id in row]
        found = [self._take(self._left) if call is None else call for call in found]
        none = len(self._ids)
        in_turn = sorted([(none if call is None else call, number) for number, call in enumerate(found)])
        return [
            (number, None, None) if call == none else (number, self._ids[call], None if call == at else call)
            for at, (call, number) in enumerate(in_turn, place)
        ]

    def _take(self, left: deque[int] | None) -> int | None:
        while left:
            number = left.popleft()
            if number not in self._answered:
                self._answered.add(number)
                return number
        return None

"""The lookup: a sorted list of recordings (conversations in wire form), searched by bisection.

- Recordings that begin with a history stand side by side. `bisect` with the history and `,{"role":"assistant"` behind
  it finds the first one that continues with a reply, and once more the end of their range.
- No text has these bytes in it, so each recording of the range has a reply at this position, up to the next separator.
- The two neighbours of a history share the longest prefix with it: after a miss, they are the closest recordings.

For example, the range of the history `a` is 1 to 2, with the replies `x` and `y`; that of `b` is empty:

    0   a
    1   a x
    2   a y c z
    3   b c
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import itemgetter
from typing import NamedTuple

from mockchat.core import wire
from mockchat.core.entries import Conversation, is_reply
from mockchat.core.ignorable import leave_out
from mockchat.core.message import Details
from mockchat.core.text import common_length, excerpt

_REPLY_FOLLOWS = wire.NEXT + wire.ASSISTANT
_LONG = 65536  # bytes


class Reply(NamedTuple):
    """A recorded assistant message in wire form, its conversation's id as a JSON string, its details if it has any."""

    message: bytes
    conversation_id: bytes
    details: Details | None = None


class ResponseIndex:
    """Finds the replies recorded after a history in wire form. With `ignore`, look up `compared(history)`."""

    def __init__(self, conversations: Iterable[Conversation], ignore: Sequence[str] = ()) -> None:
        self.ignore = ignore
        self._patterns = [re.compile(pattern) for pattern in ignore]
        self.match: Sequence[str] = ()  # The parameters that must be the same: see `core/matching.py`.
        given = list(conversations)
        compared = [self.compared(each.recording) for each in given]
        order = sorted(range(len(given)), key=compared.__getitem__)
        self.recordings = [compared[number] for number in order]
        # In the same order: the recording before `ignore`, the conversation's id, its details, and its number.
        self.said = [given[number].recording for number in order] if ignore else self.recordings
        self.ids = [_id(given[number]) for number in order]
        self.details = [given[number].details for number in order]
        self.numbers = order
        self._long_replies: dict[tuple[int, int], bytes] = {}  # By the conversation's number and the reply's position.
        self.before: Callable[[bytes], int] = partial(bisect_left, self.recordings)

    def add(self, conversation: Conversation) -> None:
        compared = self.compared(conversation.recording)
        position = bisect_right(self.recordings, compared)
        self.recordings.insert(position, compared)
        if self.said is not self.recordings:
            self.said.insert(position, conversation.recording)
        self.ids.insert(position, _id(conversation))
        self.details.insert(position, conversation.details)
        self.numbers.insert(position, len(self.numbers))

    def compared(self, joined: bytes) -> bytes:
        """The history after `ignore`."""
        return wire.join([leave_out(self._patterns, each) for each in wire.split(joined)]) if self.ignore else joined

    def replies(self, history: bytes) -> Sequence[Reply]:
        recordings = self.recordings
        first = self.before(history)
        if first == len(recordings) or not recordings[first].startswith(history):
            return ()
        alone = first + 1 == len(recordings) or not recordings[first + 1].startswith(history)
        if alone and recordings[first].startswith(_REPLY_FOLLOWS, len(history)) and not self.details[first]:
            return (self.reply(first, history),)
        key = history + _REPLY_FOLLOWS if history else wire.ASSISTANT
        return Replies(self, history, self._beginning_with(key))

    def reply(self, position: int, history: bytes) -> Reply:
        said, details, reply_id = self.said[position], self.details[position], self.ids[position]
        if self.ignore:
            history = wire.join(wire.split(said)[: wire.count(history)])
        start = wire.next_start(history)
        message = wire.first(said, start)
        if len(message) > _LONG:  # Else each client that does not read it would hold a copy.
            message = self._long_replies.setdefault((self.numbers[position], start), message)
        if not details:
            return Reply(message, reply_id)
        number = wire.count(history)
        if start + len(message) + 1 < len(said) and not wire.is_plain(message):
            # LangChain.js takes two answers with the same id for one message.
            reply_id = b'%b_%d"' % (reply_id[:-1], number)
        return Reply(message, reply_id, details.get(number))

    def recorded(self, history: bytes) -> int:
        """The size in bytes of the longest recorded prefix of a history, in whole messages."""
        position = self.before(history)
        around = range(max(0, position - 1), min(len(self.recordings), position + 1))
        shared = max((common_length(history, self.recordings[each]) for each in around), default=0)
        if shared == len(history):
            return shared
        return history.rfind(wire.BETWEEN, 0, shared + len(wire.NEXT)) + 1

    def following(self, history: bytes) -> range:
        """The positions of the recordings that continue after a history."""
        if not history:
            return range(self.before(b"\0"), len(self.recordings))
        return self._beginning_with(history + wire.NEXT)

    def _beginning_with(self, key: bytes) -> range:
        """The positions of the recordings that begin with `key`, which ends with a quote."""
        return range(self.before(key), self.before(key[:-1] + b"#"))  # The next byte after a quote.

    def neighbours(self, among: range, start: int, message: bytes) -> list[tuple[bytes, int]]:
        """The one or two recorded messages closest to `message`, each with the position of its recording.

        One of them shares the longest prefix with it. `among` is `following(history)`, `start` `next_start(history)`.
        """
        key = message + b"}"
        part = itemgetter(slice(start, start + len(key)))
        position = bisect_left(self.recordings, key, among.start, among.stop, key=part)
        around = [each for each in (position - 1, position) if each in among]
        return [(wire.first(self.recordings[each], start), each) for each in around]

    def conversation_id(self, position: int) -> str:
        return excerpt(wire.loads(self.ids[position]))


def _id(conversation: Conversation) -> bytes:
    """A conversation's id as JSON; a copy, because orjson's result occupies a kilobyte."""
    return b'"%b"' % wire.text(conversation.id)[1:-1]


class Replies(Sequence[Reply]):
    """The replies after a history, each cut out of its recording when it is read."""

    def __init__(self, index: ResponseIndex, history: bytes, positions: range) -> None:
        self._index = index
        self._history = history
        self._positions: Sequence[int] = positions
        if any(index.details[positions.start : positions.stop]):
            number = wire.count(history)
            self._positions = [each for each in positions if is_reply(index.details[each], number)]

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, number: int) -> Reply:  # type: ignore[override]
        return self._index.reply(self._positions[number], self._history)

    def in_file_order(self) -> list[Reply]:
        positions = sorted(self._positions, key=self._index.numbers.__getitem__)
        return [self._index.reply(position, self._history) for position in positions]

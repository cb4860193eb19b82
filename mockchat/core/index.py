"""The lookup: the recordings are a sorted list of byte strings, and a history is found in it by bisection.

Rules that hold here:

- A recording is a conversation in wire form (see `core/wire.py`): its messages as they stand in a client's array.
- All recordings that begin with a history stand side by side. So `bisect` with the history and `,{"role":"assistant"`
  behind it finds the first recording that goes on with a reply, and once more the end of that range.
- These bytes occur in no text: each recording in the range has a reply at this very position, up to the next separator.
- The two neighbours of a history have the longest beginning in common with it: of a miss, they tell what is closest.

For example, after `a` two replies are recorded, `x` and `y`; the range of `a` is 1 to 2, that of `b` is empty:

    0   a
    1   a x
    2   a y c z
    3   b c
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple, overload

from mockchat.core import wire
from mockchat.core.entries import Conversation
from mockchat.core.message import Details
from mockchat.core.text import common_length

_REPLY_FOLLOWS = wire.NEXT + wire.ASSISTANT
_LONG = 65536  # bytes


class Reply(NamedTuple):
    """A recorded assistant message in wire form, its conversation's id as a JSON string, its details if it has any."""

    message: bytes
    conversation_id: bytes
    details: Details | None = None


class ResponseIndex:
    """History → the replies recorded after that very history.

    A lookup costs a few comparisons of the history's bytes, whatever the number of recordings. Histories are given in
    wire form, as `wire.join` makes them. Where there is something to `ignore`, it makes of a message the one that is
    compared in its place, and a history is given as `compared` makes it.
    """

    def __init__(self, conversations: Iterable[Conversation], ignore: Callable[[bytes], bytes] | None = None) -> None:
        self.ignore = ignore
        self.match: Sequence[str] = ()  # The parameters that must be the same: see `core/matching.py`.
        self.in_place = ignore is None  # Whether histories can be looked up as they stand in a request.
        given = list(conversations)
        compared = [self.compared(each.recording) for each in given]
        order = sorted(range(len(given)), key=compared.__getitem__)
        self.recordings = [compared[number] for number in order]
        # Beside each recording: the same as it was said, its conversation's id, the details of its messages, and how
        # many conversations were given before it.
        self.said = self.recordings if ignore is None else [given[number].recording for number in order]
        self.ids = [_id(given[number]) for number in order]
        self.details = [given[number].details for number in order]
        self.numbers = order
        self._long_replies: dict[tuple[int, int], bytes] = {}  # Those that were asked for, by number and position.
        self.before: Callable[[bytes], int] = partial(bisect_left, self.recordings)

    def add(self, conversation: Conversation) -> None:
        """Insert one more conversation: the index becomes what it would be had this been the last of those given."""
        compared = self.compared(conversation.recording)
        position = bisect_right(self.recordings, compared)
        self.recordings.insert(position, compared)
        if self.said is not self.recordings:
            self.said.insert(position, conversation.recording)
        self.ids.insert(position, _id(conversation))
        self.details.insert(position, conversation.details)
        self.numbers.insert(position, len(self.numbers))

    def require(self, parameters: Sequence[str]) -> None:
        """Have these parameters of a request count beside its messages."""
        self.match = parameters
        self.in_place = self.ignore is None and not parameters

    def compared(self, joined: bytes) -> bytes:
        """The history that is compared in place of this one."""
        return joined if self.ignore is None else wire.join(map(self.ignore, wire.split(joined)))

    def replies(self, history: bytes) -> Sequence[Reply]:
        """The replies recorded after a history, each with its conversation: none, one, or several in `Replies`."""
        key = history + _REPLY_FOLLOWS if history else wire.ASSISTANT
        recordings = self.recordings
        first = self.before(key)
        if first == len(recordings) or not recordings[first].startswith(key):
            return ()
        end = first + 1
        if end < len(recordings) and recordings[end].startswith(key):
            end = self.before(_behind(key))
        if end - first > 1 or self.details[first]:
            return Replies(self, history, range(first, end))
        return (self.reply(first, history),)

    def reply(self, position: int, history: bytes) -> Reply:
        """The reply that a recording, given by its position, has after this history."""
        said, details, reply_id = self.said[position], self.details[position], self.ids[position]
        if self.ignore is not None:
            history = wire.join(wire.split(said)[: len(wire.split(history))])
        start = len(history) + len(wire.NEXT) if history else 0
        message = wire.first(said, start)
        if len(message) > _LONG:  # Clients that do not read it would have as many copies in memory.
            message = self._long_replies.setdefault((self.numbers[position], start), message)
        if not details:
            return Reply(message, reply_id)
        number = len(wire.split(history))
        if start + len(message) + 1 < len(said) and not wire.is_plain(message):
            # Clients that know a message by the id of its answer, as LangChain.js does, would mix them up.
            reply_id = b'%b_%d"' % (reply_id[:-1], number)
        return Reply(message, reply_id, details.get(number))

    def recorded(self, history: bytes) -> int:
        """How many bytes of a history, in whole messages, a recording begins with."""
        position = self.before(history)
        around = range(max(0, position - 1), min(len(self.recordings), position + 1))
        shared = max((common_length(history, self.recordings[each]) for each in around), default=0)
        if shared == len(history):
            return shared
        return history.rfind(wire.BETWEEN, 0, shared + len(wire.NEXT)) + 1

    def following(self, history: bytes) -> range:
        """The positions of the recordings that go on after a history."""
        key = wire.before_next(history)
        if not key:
            return range(self.before(b"\0"), len(self.recordings))
        return range(self.before(key), self.before(_behind(key)))

    def neighbours(self, among: range, start: int, message: bytes) -> list[tuple[bytes, int]]:
        """The messages at a place of some recordings between which `message` would stand, each with its position.

        One of them has the longest beginning in common with `message`. `among` is what `following` returned for a
        history, and `start` is where the next message begins.
        """
        key = message + b"}"
        part = itemgetter(slice(start, start + len(key)))
        position = bisect_left(self.recordings, key, among.start, among.stop, key=part)
        around = [each for each in (position - 1, position) if each in among]
        return [(wire.first(self.recordings[each], start), each) for each in around]

    def conversation_id(self, position: int) -> str:
        """The id of the conversation to which a recording, given by its position, belongs."""
        conversation_id: str = wire.loads(self.ids[position])
        return conversation_id

    @property
    def ambiguous(self) -> int:
        """The number of histories after which several replies are recorded that are not the same."""
        histories = set(self._partings())
        return sum(len({reply.message for reply in self.replies(each)}) > 1 for each in histories)

    def _partings(self) -> Iterator[bytes]:
        """The histories after which two neighbours go on with assistant messages that are not the same."""
        for number in range(1, len(self.recordings)):
            one, other = self.recordings[number - 1], self.recordings[number]
            # Nearly all part in the first message, which is found out soonest.
            shared = other[: common_length(one, other)]
            start = shared.rfind(wire.BETWEEN) + 1
            behind = start + len(wire.NEXT) if start else 0
            if one.startswith(wire.ASSISTANT, behind) and other.startswith(wire.ASSISTANT, behind):
                yield shared[:start]


def _id(conversation: Conversation) -> bytes:
    """A conversation's id as JSON. It is copied, since orjson's own result keeps a kilobyte of memory."""
    return b'"%b"' % wire.text(conversation.id)[1:-1]


def _behind(key: bytes) -> bytes:
    """The least byte string that sorts behind all that begin with `key`, which ends with a quote."""
    return key[:-1] + b"#"


class Replies(Sequence[Reply]):
    """Several replies recorded after a history, in the order of the index; each is cut out when it is asked for."""

    def __init__(self, index: ResponseIndex, history: bytes, positions: range) -> None:
        self._index = index
        self._history = history
        self._positions: Sequence[int] = positions
        if any(index.details[positions.start : positions.stop]):
            number = len(wire.split(history))
            self._positions = [each for each in positions if self._is_reply(index.details[each].get(number))]

    @staticmethod
    def _is_reply(details: Details | None) -> bool:
        return details is None or details.is_reply

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, item: int) -> Reply: ...
    @overload
    def __getitem__(self, item: slice) -> Sequence[Reply]: ...
    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, slice):
            return [self[number] for number in range(*item.indices(len(self)))]
        return self._index.reply(self._positions[item], self._history)

    def in_file_order(self) -> list[Reply]:
        """The replies in the order in which their conversations were given."""
        positions = sorted(self._positions, key=self._index.numbers.__getitem__)
        return [self._index.reply(position, self._history) for position in positions]

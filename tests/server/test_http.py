"""Heads that are known again, and heads as they are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from mockchat.core.diagnosis import Diagnosis
from mockchat.server.errors import ApiError, NotRecorded
from mockchat.server.http import Answer, AnswerWriter, HttpRequest, chunk, in_blocks
from mockchat.server.parser import known_head

HEAD = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: %b\r\nX: y\r\n\r\n"


def request(*headers: tuple[str, str], method: str = "POST", chunked: bool = False) -> HttpRequest:
    return HttpRequest(method, "/p", CIMultiDictProxy(CIMultiDict(headers)), True, True, chunked)


PLAIN = request(("Host", "x"), ("Content-Length", "2"), ("X", "y"))


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (HEAD % b"2" + b"{}", 2),
        (HEAD % b"2" + b"{", 2),
        (HEAD % b"2" + b"{}POST", 2),
        (HEAD % b"10" + b"1234567890", 10),
        (HEAD % b"0", 0),
        (HEAD % b"123456789012345678", 123456789012345678),
        (HEAD % b"1234567890123456789", None),
        (HEAD % b"", None),
        (HEAD % b"-2", None),
        (HEAD % b"+2", None),
        (HEAD % b" 2", None),
        (HEAD % b"2 ", None),
        (HEAD % b"2, 2", None),
        (HEAD % b"1_0", None),
        (HEAD % "٢".encode(), None),
        (HEAD.replace(b"X: y", b"X: z") % b"2", None),
        (HEAD.replace(b"POST", b"PUT") % b"2", None),
        (HEAD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") % b"2", None),
        ((HEAD % b"2")[:-1], None),
        (b"", None),
    ],
)
def test_a_head_is_known_again_but_for_its_length(data: bytes, size: int | None) -> None:
    known = known_head(HEAD % b"2" + b"{}", PLAIN)
    assert known is not None
    assert known.request is PLAIN
    assert known.match(data) == ((0, 0) if size is None else (data.index(b"\r\n\r\n") + 4, size))


@pytest.mark.parametrize(
    ("data", "read"),
    [
        (HEAD % b"2" + b"{}\r\n", PLAIN),
        (HEAD % b"2" + b"{", PLAIN),
        (HEAD % b"2" + b"{}", request(("Content-Length", "2"), ("Content-Length", "2"))),
        (HEAD % b"2" + b"{}", request(("Content-Length", "2"), ("Expect", "100-continue"))),
        (HEAD % b"2" + b"{}", request(("Content-Length", "2"), ("Upgrade", "h2c"))),
        (HEAD % b"2" + b"{}", request(("Content-Length", "2"), chunked=True)),
        (HEAD % b"2" + b"{}", request(("Content-Length", "2"), method="HEAD")),
        (HEAD % b"2" + b"{}", request()),
        (HEAD % b"2\r\nContent-Length: 2" + b"{}", PLAIN),
        (HEAD.replace(b"\r\nX", b"\nX") % b"2" + b"{}", PLAIN),
        (HEAD.replace(b"Content-Length: ", b"Content-Length:\t") % b"2" + b"{}", PLAIN),
        (b"POST /p HTTP/1.1\nContent-Length: 24\n\n\r\nContent-Length: 2\r\n\r\n{}", PLAIN),
    ],
)
def test_heads_that_are_not_trusted_a_second_time(data: bytes, read: HttpRequest) -> None:
    assert known_head(data, read) is None


def test_the_spelling_of_the_name_is_no_matter() -> None:
    data = b"POST /p HTTP/1.1\r\ncontent-LENGTH:2\r\n\r\n{}"
    known = known_head(data, request(("content-LENGTH", "2")))
    assert known is not None
    assert known.match(data.replace(b"2\r", b"12\r")) == (len(data) - 1, 12)


def sent(answer: Answer) -> bytes:
    return b"".join(part for part in answer.parts if isinstance(part, bytes))


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("closing", [True, False])
def test_the_connection_header_says_when_it_closes(asked: bool, keep_alive: bool, closing: bool) -> None:
    writer = AnswerWriter()
    writer.closing = closing
    answer = writer.error(PLAIN._replace(keep_alive=asked), ApiError(400, "why"), keep_alive=keep_alive)
    head = sent(answer).partition(b"\r\n\r\n")[0]
    is_kept = asked and keep_alive and not closing
    assert (b"Connection: close" in head.split(b"\r\n")) is not is_kept
    assert (answer.persistent, answer.status) == (is_kept, 400)


def test_head_has_the_length_of_the_answer_to_post() -> None:
    error = ApiError(405, "why")
    head = sent(AnswerWriter().error(request(method="HEAD"), error))
    assert head.endswith(b"\r\nContent-Length: %d\r\n\r\n" % len(error.body()))


@pytest.mark.parametrize("parts", [[b"body"], [b"bo", memoryview(b"dy")]])
def test_a_body_may_be_given_in_parts(parts: list[bytes | memoryview]) -> None:
    head, _, body = sent(AnswerWriter().whole(PLAIN, parts, b'"id"')).partition(b"\r\n\r\n")
    assert head.endswith(b"\r\nContent-Length: 4")
    assert body == b"body"


@pytest.mark.parametrize("accept", ["application/json", "text/plain"])
@pytest.mark.parametrize(
    ("text", "size"), [("\U0001f600" * 5000, 2000), ("\r\nX: y" * 5000, 1342), ("x" * 1000, 1000), ("short", 5)]
)
def test_the_header_of_a_miss_has_2000_bytes_at_most(text: str, size: int, accept: str) -> None:
    missed = NotRecorded(lambda: Diagnosis("messages[0]", text), b"")
    head = sent(AnswerWriter().error(request(("Accept", accept)), missed)).split(b"\r\n\r\n")[0]
    (line,) = [line for line in head.split(b"\r\n") if line.startswith(b"X-")]
    assert line.startswith(b"X-Mockchat-Miss: ")
    assert len(line) - len(b"X-Mockchat-Miss: ") == size
    assert line.decode("ascii").isprintable()


def test_an_error_keeps_no_frame() -> None:
    """Their locals would be the request's body, until the garbage collector comes."""
    try:
        try:
            raise ValueError
        except ValueError:
            raise ApiError(400, "no JSON") from None
    except ApiError as error:
        AnswerWriter().error(PLAIN, error)
        assert (error.__traceback__, error.__context__) == (None, None)


def test_each_answer_has_an_id_of_its_own() -> None:
    writer = AnswerWriter()
    ids = {sent(writer.whole(PLAIN, [b""], b'"id"')).split(b"x-request-id: ")[1][:24] for _ in range(100)}
    assert len(ids) == 100


def test_the_last_chunk_goes_out_with_the_last_block() -> None:
    parts = list(AnswerWriter().stream(PLAIN, iter([b"one", b"two end"]), b"end", b'"id"').parts)
    assert parts[0].endswith(b"\r\n\r\n3\r\none\r\n")  # type: ignore[union-attr]
    assert parts[1] == chunk(b"two end") + b"0\r\n\r\n"


@given(st.lists(st.sampled_from([0, 1, 65535, 65536, 200_000, 262_144, 262_145, 1_000_000]), max_size=8))
def test_blocks_are_the_parts_short_ones_together_and_long_ones_cut(sizes: list[int]) -> None:
    parts = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    blocks = list(in_blocks(parts))
    assert b"".join(blocks) == b"".join(parts)
    assert all(len(block) <= 65536 + 262_144 for block in blocks)
    assert all(blocks)
    assert len(list(in_blocks([b"x" * 100] * 1000))) == 2

"""However the network cuts a multipart body, the same parts come out."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scd.errors import BadRequest
from scd.web.multipart import PartBegin, PartEnd, events

BOUNDARY = "0123456789abcdef"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"

Parts = list[tuple[str, bytes]]


def part(name: str, content: bytes, filename: str = "", boundary: str = BOUNDARY) -> bytes:
    named = f'; filename="{filename}"' if filename else ""
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def body(*parts: bytes, boundary: str = BOUNDARY) -> bytes:
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def parse(chunks: Iterable[bytes], content_type: str | None = TYPE) -> Parts:
    """The parts with their whole content. Also checks that events come in a sensible order."""

    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def collect() -> Parts:
        found: Parts = []
        is_open = False
        async for event in events(content_type, stream()):
            if isinstance(event, PartBegin):
                assert not is_open, "a part within a part"
                found.append((event.name, b""))
            elif isinstance(event, bytes):
                assert is_open, "data outside a part"
                found[-1] = (found[-1][0], found[-1][1] + event)
            is_open = not isinstance(event, PartEnd)
        assert not is_open, "a part without an end"
        return found

    return asyncio.run(collect())


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


CLIENT = body(part("params", b'{"cfg": {}}', "params"), part("import", b"\x1f\x8b\0\r\n--\r\n", "import"))
CLIENT_PARTS = [("params", b'{"cfg": {}}'), ("import", b"\x1f\x8b\0\r\n--\r\n")]


def test_what_the_client_sends() -> None:
    assert parse([CLIENT]) == CLIENT_PARTS


def test_byte_by_byte() -> None:
    assert parse(CLIENT[n : n + 1] for n in range(len(CLIENT))) == CLIENT_PARTS


# Contents that nearly are a boundary, which a parser must look back for.
TRICKY = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b"--", b"\r\n--", f"\r\n--{BOUNDARY}"[:-1].encode(), b"x", b"\0"]),
    max_size=8,
).map(b"".join)


@given(
    contents=st.lists(TRICKY | st.binary(max_size=200), min_size=1, max_size=3),
    places=st.lists(st.integers(0, 2000), max_size=12),
)
@example(contents=[b""], places=[])
@example(contents=[f"\r\n--{BOUNDARY}"[:-1].encode()] * 2, places=list(range(300)))
def test_any_cut_gives_the_same_parts(contents: list[bytes], places: list[int]) -> None:
    sent = body(*(part(f"p{n}", content, "file") for n, content in enumerate(contents)))
    assert parse(cut(sent, places)) == [(f"p{n}", content) for n, content in enumerate(contents)]


@pytest.mark.parametrize("length", range(len(CLIENT) - 3))
def test_a_body_that_ends_too_early_is_never_taken_for_whole(length: int) -> None:
    with pytest.raises(BadRequest) as caught:
        parse([CLIENT[:length]])
    assert caught.value.message == "The multipart body ends too early."


@given(data=st.binary(max_size=300), places=st.lists(st.integers(0, 300), max_size=4))
def test_garbage_is_refused(data: bytes, places: list[int]) -> None:
    with pytest.raises(BadRequest, match=r"^The multipart body (is damaged: .*|ends too early)\.$"):
        parse(cut(data, places))


def test_another_boundary_than_announced() -> None:
    with pytest.raises(BadRequest, match=r"^The multipart body is damaged: "):
        parse([body(part("params", b"x", boundary="other"), boundary="other")])


def test_a_boundary_without_end() -> None:
    with pytest.raises(BadRequest, match=r"^The multipart body is damaged: "):
        parse([CLIENT], f"multipart/form-data; boundary={'x' * 300}")


@pytest.mark.parametrize(
    "content_type",
    [None, "", "application/json", "multipart/form-data", "multipart/form-data; boundary=",
     "multipart/mixed; boundary=x", "text/plain; boundary=x"],
)  # fmt: skip
def test_what_is_no_form(content_type: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        parse([CLIENT], content_type)
    assert caught.value.message == "remote_run takes multipart/form-data with the parts params and import."


@pytest.mark.parametrize(
    "content_type", [f'multipart/form-data; boundary="{BOUNDARY}"', f"Multipart/Form-Data; boundary={BOUNDARY}"]
)
def test_other_ways_to_write_the_type(content_type: str) -> None:
    assert parse([CLIENT], content_type) == CLIENT_PARTS


@pytest.mark.parametrize(
    "header", ["X: " + "y" * 17_000, "X" * 17_000 + ": y", "\r\n".join(f"X{n}: y" for n in range(9000))]
)
def test_endless_headers(header: str) -> None:
    """They are held in memory until they end."""
    sent = part("params", b"x").replace(b"\r\n\r\n", f"\r\n{header}\r\n\r\n".encode(), 1)
    with pytest.raises(BadRequest, match=r"too long headers|is damaged"):
        parse(cut(body(sent), range(0, 20_000, 1000)))


def test_headers_are_counted_by_the_part() -> None:
    parts = [part(f"p{n}", b"x").replace(b"\r\n\r\n", b"\r\nX: " + b"y" * 3000 + b"\r\n\r\n", 1) for n in range(10)]
    assert len(parse([body(*parts)])) == 10


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ("form-data; name=params", "params"),
        ('form-data; filename="x"; name="params"', "params"),
        ("form-data", ""),
        ('form-data; name="\xe4"', "\xe4"),
    ],
)
def test_names_of_parts(disposition: str, name: str) -> None:
    sent = f"--{BOUNDARY}\r\ncontent-DISPOSITION: {disposition}\r\n\r\nx\r\n".encode()
    assert parse([body(sent)]) == [(name, b"x")]


def test_a_part_without_a_disposition_has_no_name() -> None:
    assert parse([body(f"--{BOUNDARY}\r\nX: y\r\n\r\nx\r\n".encode())]) == [("", b"x")]

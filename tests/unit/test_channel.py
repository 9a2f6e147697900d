import json
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scd.channel import ChannelBroken, Message, receive, send

Pair = tuple[socket.socket, socket.socket]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@pytest.fixture
def pair() -> Iterator[Pair]:
    near, far = socket.socketpair()
    with near, far:
        near.settimeout(30)
        far.settimeout(30)
        yield near, far


def frame(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


@given(messages=st.lists(st.dictionaries(st.text(), JSON, max_size=4), min_size=1, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_messages_arrive_whole_and_in_order(pair: Pair, messages: list[Message]) -> None:
    for message in messages:
        send(pair[0], message)
    assert [receive(pair[1]) for _ in messages] == [(message, []) for message in messages]


def test_descriptors_come_with_their_own_message(pair: Pair) -> None:
    read_end, write_end = os.pipe()
    send(pair[0], {"n": 1}, (write_end,))
    send(pair[0], {"n": 2})
    send(pair[0], {"n": 3}, (read_end, write_end))
    os.close(write_end)
    os.close(read_end)
    (first, with_first), (_, with_second), (_, with_third) = (receive(pair[1]) for _ in range(3))
    assert first == {"n": 1}
    assert [len(fds) for fds in (with_first, with_second, with_third)] == [1, 0, 2]
    os.write(with_first[0], b"through the other process")
    assert os.read(with_third[0], 100) == b"through the other process"
    for fd in (*with_first, *with_third):
        assert not os.get_inheritable(fd), "a node would inherit it"
        os.close(fd)


def test_a_message_that_comes_byte_by_byte(pair: Pair) -> None:
    data = frame(b'{"a": "' + b"x" * 50 + b'"}')
    for position in range(len(data)):
        pair[0].sendall(data[position : position + 1])
    assert receive(pair[1]) == ({"a": "x" * 50}, [])


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "closed"),
        (b"\0\0", "closed in the middle of a message"),
        (frame(b'{"a": 1}')[:-1], "closed in the middle of a message"),
        (struct.pack(">I", 2**31), "a message of 2147483648 bytes"),
        (frame(b"[1]"), "not an object"),
        (frame(b"null"), "not an object"),
        (frame(b"{"), "Expecting property name"),
        (frame(b"\xff\xfe\xfd"), "codec can't decode"),
        (frame(b'{"a":' + b"[" * 100_000), "recursion"),
    ],
)
def test_what_makes_no_sense_ends_the_channel(pair: Pair, sent: bytes, reason: str) -> None:
    pair[0].sendall(sent)
    pair[0].close()
    with pytest.raises(ChannelBroken, match=reason):
        receive(pair[1])


def test_descriptors_of_a_broken_message_are_closed(pair: Pair) -> None:
    read_end, write_end = os.pipe()
    socket.send_fds(pair[0], [frame(b"[]")], [write_end])
    os.close(write_end)
    with pytest.raises(ChannelBroken):
        receive(pair[1])
    assert os.read(read_end, 1) == b"", "the descriptor is still open: whoever waits for its end waits for ever"
    os.close(read_end)


def test_a_reader_that_left_is_no_signal_but_an_error(pair: Pair) -> None:
    pair[1].close()
    with pytest.raises(ChannelBroken):
        send(pair[0], json.loads('{"a": 1}'))

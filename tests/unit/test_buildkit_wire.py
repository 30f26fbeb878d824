"""Messages of Protocol Buffers: bytes that another implementation has made, and whatever we make of our own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barque.api.buildkit.fields import decode, encode
from barque.api.buildkit.messages import Packet, Stat, StatusResponse, Timestamp, Vertex
from barque.protobuf import InvalidMessage

#: As Google's own library encodes Packet{type: PACKET_DATA, ID: 300, data: "ab"} and a Stat with an attribute.
DATA = bytes.fromhex("0802 18ac02 2202 6162".replace(" ", ""))
STAT = bytes.fromhex("12 1e 0a03 612f62 10a483808008 28ffffffffffffffffff01 5206 0a017812 0179".replace(" ", ""))


def test_known_bytes() -> None:
    packet = Packet(type=2, id=300, data=b"ab")
    assert encode(packet) == DATA
    assert decode(Packet, DATA) == packet


def test_nested_maps_and_negative_numbers() -> None:
    stat = Stat(path="a/b", mode=1 << 31 | 0o644, size=-1, xattrs={"x": b"y"})
    data = encode(Packet(stat=stat))
    assert decode(Packet, data) == Packet(stat=stat)
    assert b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" in data  # ten bytes for -1, as proto3 has it


def test_defaults_are_not_sent_and_strangers_passed_over() -> None:
    assert encode(Packet()) == b""
    unknown = bytes.fromhex("9a0603 616263 a10600000000000000 00 ad0600000000 98060a".replace(" ", ""))
    assert decode(Packet, unknown + DATA) == Packet(type=2, id=300, data=b"ab")


def test_absent_and_empty_messages_differ() -> None:
    assert decode(Packet, encode(Packet(stat=Stat()))).stat == Stat()
    assert decode(Packet, b"").stat is None


@pytest.mark.parametrize("data", [b"\x08", b"\x22\x05ab", b"\x0a\x01a", b"\x0f", b"\xff" * 11, b"\x21abc"])
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decode(Packet, data)


@given(st.binary(max_size=60))
def test_whatever_comes_is_a_message_or_refused(data: bytes) -> None:
    try:
        found = decode(StatusResponse, data)
    except InvalidMessage:
        return
    assert decode(StatusResponse, encode(found)) == found


@given(st.text(), st.booleans(), st.integers(-2**63, 2**63 - 1), st.lists(st.text(), max_size=3))
def test_there_and_back(name: str, cached: bool, seconds: int, inputs: list[str]) -> None:
    vertex = Vertex(name=name, cached=cached, inputs=inputs, started=Timestamp(seconds, 5))
    assert decode(Vertex, encode(vertex)) == vertex

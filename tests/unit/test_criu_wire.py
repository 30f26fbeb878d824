"""criu's messages: numbers beyond seven bits, and answers that are none."""

from __future__ import annotations

import pytest

from barque.runtime.criu import wire


def test_request() -> None:
    assert wire.request(wire.VERSION) == bytes([0x08, 10])
    options = wire.request(wire.DUMP, {"pid": 300, "leave_running": True, "external": ["a", "b"],
                                       "inherit_fd": [{"key": "k", "fd": 4}], "empty_ns": 0x40000000})
    inner = (b"\x10\xac\x02" b"\x18\x01" b"\xaa\x02\x01a\xaa\x02\x01b" b"\xda\x01\x05\x0a\x01k\x10\x04"
             b"\xb0\x02\x80\x80\x80\x80\x04")
    assert options == b"\x08\x01\x12" + bytes([len(inner)]) + inner


def test_answers() -> None:
    version = wire.answer(b"\x08\x0a\x10\x01\x52\x06\x08\x03\x10\x11\x20\x01")
    assert (version.type, version.success, version.version) == (wire.VERSION, True, 31701)
    notice = wire.answer(b"\x08\x06\x10\x01\x2a\x09\x0a\x04post\x10\xac\x02")
    assert (notice.type, notice.script, notice.pid) == (wire.NOTIFY, "post", 300)
    failed = wire.answer(b"\x08\x01\x10\x00\x38\x02\x4a\x03bad")
    assert (failed.success, failed.errno, failed.message) == (False, 2, "bad")
    assert wire.answer(wire.refusal("no")) == wire.Answer(0, False, message="no")
    assert wire.answer(b"\x08\x01\x10\x01\xf9\x07" + bytes(8) + b"\xfd\x07" + bytes(4)).success


@pytest.mark.parametrize("data", [b"\x08", b"\x08\xff", b"\x2a\x05ab", b"\x0b\x00", b"\x2a\x01\x80",
                                  b"\x10\x0a\x2a\x02\x0a\xff", b"\x0a\x01a", b"\x08" + b"\xff" * 11, b"\x28\x01"])
def test_no_answers(data: bytes) -> None:
    with pytest.raises(ValueError):
        wire.answer(data)

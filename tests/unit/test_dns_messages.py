"""DNS messages and names, without a network: what strangers send must not harm, what is kept must be right."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barque.network.dns import wire
from barque.network.dns.upstream import MAX_CACHED_BYTES, Cache
from barque.network.dns.zone import Record, Zone


def question(name: str, kind: int = wire.A, *, edns: int = 0, number: int = 7) -> bytes:
    extra = b"\0" + struct.pack(">HHIH", wire.OPT, edns, 0, 0) if edns else b""
    return (struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 1 if edns else 0) + wire.name(name)
            + struct.pack(">HH", kind, wire.IN) + extra)


def record(container: str, names: list[str], address: str, **more: object) -> Record:
    place = {"network": "n1", "label": "web", "names": names, "links": more.pop("links", {}), "addresses": [address],
             "subnets": ["10.0.0.0/24"]}
    return Record.load({"id": container, "places": [place], "host": ["10.0.0.1"], "servers": [], "forward": True,
                        "ndots": False} | more)


def answer(zone: Zone, asker: str, name: str, kind: int = wire.A) -> bytes | None:
    return zone.answer(zone.records[asker], wire.parse(question(name, kind)))


@given(st.binary(max_size=600))
def test_no_bytes_do_harm(data: bytes) -> None:
    for read in (wire.parse, wire.lifetime):
        try:
            read(data)
        except wire.Malformed:
            continue


@given(st.binary(min_size=12, max_size=400))
def test_what_is_kept_can_be_aged(tail: bytes) -> None:
    response = b"\0\7\x81\x80" + tail
    if wire.lifetime(response) > 0:
        assert len(wire.aged(response, 1)) == len(response)


def test_a_question_says_what_its_client_can_take() -> None:
    plain, long = wire.parse(question("WWW.Example.Org")), wire.parse(question("a.b", edns=4096))
    assert (plain.name, plain.size, plain.edns) == ("www.example.org", 512, False)
    assert (long.size, long.edns) == (4096, True)
    big = wire.answer(plain, wire.NOERROR, [(wire.A, bytes(4))] * 60)
    assert wire.truncated(wire.fitting(plain, big)) and len(wire.fitting(plain, big)) <= 512
    assert wire.fitting(long, big) == big
    with pytest.raises(wire.Malformed):
        wire.parse(question("a")[:2] + b"\x81\x80" + question("a")[4:])


def test_what_others_are_asked_is_what_an_answer_is_kept_for() -> None:
    """Nothing else of the client's message goes along: its answer is given to other containers, too."""
    subnet = b"\0" + struct.pack(">HHIH", wire.OPT, 4096, 0x8000, 11) + bytes.fromhex("00080007000118 00c00002")
    odd = question("WWW.Example.Org")[:10] + b"\0\1" + question("WWW.Example.Org")[12:] + subnet + b"trailing"
    query = wire.parse(odd)
    sent = wire.parse(wire.asked(query, 9))
    assert sent.id == 9 and sent.key == query.key and b"trailing" not in wire.asked(query, 9)
    assert len(wire.asked(query, 9)) == len(question("www.example.org", edns=4096))
    keys = {wire.parse(question(name, kind, edns=edns)).key for name, kind, edns in (
        ("a.b", wire.A, 0), ("A.B", wire.A, 0), ("a.b", wire.A, 1232), ("a.b", 65, 0), ("a.b", 97, 0))}
    one_label = question("a.b").replace(b"\1a\1b", b"\3a.b")
    assert len(keys) == 4 and wire.parse(one_label).name == "a.b" and wire.parse(one_label).key not in keys


def test_answers_of_others_are_not_believed() -> None:
    query = wire.parse(question("example.org"))
    real = wire.answer(wire.parse(question("example.org", number=99)), wire.NOERROR, [(wire.A, bytes(4))], 60)
    assert wire.belongs(query, 99, real) and not wire.belongs(query, 98, real)
    other = wire.answer(wire.parse(question("example.com", number=99)), wire.NOERROR)
    assert not wire.belongs(query, 99, other) and not wire.belongs(query, 99, question("example.org", number=99))
    assert wire.for_client(query, real)[:2] == b"\0\7"


def test_kept_answers_age_and_failures_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("barque.network.dns.upstream.time.monotonic", lambda: now[0])
    cache, query = Cache(), wire.parse(question("example.org"))
    good = wire.answer(query, wire.NOERROR, [(wire.A, b"\1\2\3\4")], 60)
    cache.put(("good",), good)
    cache.put(("bad",), wire.answer(query, wire.SERVFAIL))
    cache.put(("empty",), wire.answer(query, wire.NXDOMAIN))
    now[0] += 20
    kept = cache.get(("good",))
    assert kept is not None and wire.lifetime(kept) == 40 and cache.get(("bad",)) is None
    assert cache.get(("empty",)) is None  # without an SOA nobody says for how long
    now[0] += 41
    assert cache.get(("good",)) is None


def test_what_is_kept_has_a_limit_in_bytes() -> None:
    cache, query = Cache(), wire.parse(question("example.org"))
    large = wire.answer(query, wire.NOERROR, [(16, bytes(60000))], 60)
    for number in range(3 * MAX_CACHED_BYTES // len(large)):
        cache.put((number % 100,), large)
    kept = [number for number in range(100) if cache.get((number,))]
    assert MAX_CACHED_BYTES // 2 < len(kept) * len(large) <= MAX_CACHED_BYTES


def test_names_are_the_networks_own_and_go_with_their_container() -> None:
    zone = Zone()
    zone.put(record("c1", ["Web", "alias"], "10.0.0.2"))
    zone.put(record("c2", ["db"], "10.0.0.3", links={"store": "web"}))
    for name in ("web", "ALIAS", "web.web", "store"):
        found = answer(zone, "c2", name)
        assert found is not None and found.endswith(b"\x0a\0\0\2"), name
    assert answer(zone, "c1", "store") is None and answer(zone, "c1", "nobody") is None
    assert answer(zone, "c1", "2.0.0.10.in-addr.arpa", wire.PTR).endswith(wire.name("web.web"))  # type: ignore[union-attr]
    unused = answer(zone, "c1", "9.0.0.10.in-addr.arpa", wire.PTR)
    assert unused is not None and wire.rcode(unused) == wire.NXDOMAIN
    assert answer(zone, "c1", "9.0.0.11.in-addr.arpa", wire.PTR) is None
    zone.put(record("c1", ["new"], "10.0.0.2"))
    assert answer(zone, "c2", "web") is None and answer(zone, "c2", "new") is not None
    zone.drop("c1")
    assert answer(zone, "c2", "new") is None


@pytest.mark.parametrize(("name", "address"), [
    ("1.2.3.10.in-addr.arpa", "10.3.2.1"), ("x.2.3.10.in-addr.arpa", None), ("3.10.in-addr.arpa", None),
    ("1." + "0." * 29 + "d.f.ip6.arpa", "fd00::1"), ("ip6.arpa", None), ("example.org", None)])
def test_reverse_names(name: str, address: str | None) -> None:
    assert wire.reverse_address(name) == address

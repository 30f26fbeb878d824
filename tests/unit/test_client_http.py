"""The HTTP client reads every framing, keeps connections when it may, and takes them over after an upgrade."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from barque import fastjson
from barque.client.engine import ApiError, Engine, Unreachable
from barque.client.http import Connection, ProtocolError, query_string
from barque.client.transport import BadHost, parse_host


def exchange(answer: bytes, body: bytes | Iterator[bytes] | None = None, method: str = "GET") -> tuple[Connection,
                                                                                                       bytes]:
    """Send a request to a peer that answers ``answer`` and hangs up; gives the connection and what the peer got."""
    mine, theirs = socket.socketpair()
    connection = Connection(mine)
    connection.send(method, "/x", {"Host": "h"}, body)
    theirs.sendall(answer)
    theirs.shutdown(socket.SHUT_WR)
    theirs.settimeout(60)
    got = theirs.recv(65536)
    theirs.close()
    return connection, got


@pytest.mark.parametrize(("answer", "body"), [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcXXX", b"abc"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n00a;x=y\r\n0123456789\r\n0\r\nT: x\r\n\r\n",
     b"a0123456789"),
    (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\nrest", b""),
])
def test_bodies(answer: bytes, body: bytes) -> None:
    connection, _ = exchange(answer)
    assert connection.response("GET").read() == body
    connection.close()


@pytest.mark.parametrize("answer", [
    b"", b"HTTP/1.1 200 OK\r\n", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
])
def test_broken_answers(answer: bytes) -> None:
    connection, _ = exchange(answer)
    with pytest.raises(ProtocolError):
        connection.response("GET").read()
    connection.close()


def test_request_forms() -> None:
    connection, got = exchange(b"", b"{}", "POST")
    assert got == b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"
    connection.close()
    connection, got = exchange(b"", iter([b"ab", b"", b"c"]), "PUT")
    assert got == b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    connection.close()


def test_head_has_no_body_and_bytes_behind_an_upgrade_are_kept() -> None:
    connection, _ = exchange(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", method="HEAD")
    assert connection.response("HEAD").read() == b""
    connection.close()
    connection, _ = exchange(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\nearly")
    assert connection.response("POST").upgraded
    assert connection.receive() == b"early"
    connection.close()


def test_query_string() -> None:
    assert query_string({"b": True, "a": ["x y", "/"], "c": None, "d": 0}) == "?a=x%20y&a=%2F&b=1&d=0"
    assert query_string({"a": None}) == ""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[list[bytes]], Engine]]:
    """An engine at a socket that answers one request per entry; "close" hangs up before the next."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    threads: list[threading.Thread] = []

    def run(answers: list[bytes]) -> None:
        peer, _ = listener.accept()
        for answer in answers:
            if answer == b"close":
                peer.close()
                peer, _ = listener.accept()
                continue
            seen = b""
            while b"\r\n\r\n" not in seen:
                seen += peer.recv(65536)
            peer.sendall(answer)
        peer.close()

    def start(answers: list[bytes]) -> Engine:
        thread = threading.Thread(target=run, args=(answers,))
        thread.start()
        threads.append(thread)
        return Engine(parse_host(f"unix://{tmp_path}/s"), {})

    yield start
    for thread in threads:
        thread.join(5)
    listener.close()


def answer(status: str, body: bytes, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


PING = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\n"


def test_negotiation_takes_the_older_version(serve: Callable[[list[bytes]], Engine]) -> None:
    engine = serve([PING, answer("200 OK", b'{"a":1}')])
    assert engine.get("/x") == {"a": 1}
    assert engine.version == "1.41"
    assert not engine.supports("1.42")
    engine.close()


def test_a_connection_that_the_server_closed_is_not_used_again(serve: Callable[[list[bytes]], Engine]) -> None:
    engine = serve([PING, answer("200 OK", b"{}"), b"close", answer("200 OK", b'"again"')])
    engine.get("/x")
    assert engine._idle is not None
    engine._idle.sock.recv(1)  # the end of the stream has arrived
    assert engine.get("/y") == "again"
    engine.close()


def test_refusals(serve: Callable[[list[bytes]], Engine]) -> None:
    engine = serve([PING, answer("404 Not Found", b'{"message":"No such container: x"}\n'), answer("500 No", b"plain")])
    with pytest.raises(ApiError) as caught:
        engine.get("/x")
    assert (caught.value.status, str(caught.value)) == (404, "Error response from daemon: No such container: x")
    with pytest.raises(ApiError, match="Error response from daemon: plain"):
        engine.get("/x")
    engine.close()


def test_nobody_there(tmp_path: Path) -> None:
    engine = Engine(parse_host(f"unix://{tmp_path}/none"), {})
    with pytest.raises(Unreachable,
                       match=r"Cannot connect to the Barque daemon at unix://.*/none. Is barqued running?"):
        engine.ping()


@pytest.mark.parametrize(("text", "url"), [
    ("unix:///run/x.sock", "unix:///run/x.sock"), ("tcp://h", "tcp://h:2375"), ("h:99", "tcp://h:99"),
    ("tcp://[::1]:5", "tcp://[::1]:5"), ("tcp://", "tcp://127.0.0.1:2375"), ("ssh://me@far:22/run/s", "ssh://me@far:22/run/s")])
def test_hosts(text: str, url: str) -> None:
    assert parse_host(text).url == url


@pytest.mark.parametrize("text", ["fd://x", "tcp://h:99999", "tcp://h:x", "ssh://-oProxyCommand=x", "ssh://a:b@c", "tcp://a:b:c"])
def test_bad_hosts(text: str) -> None:
    with pytest.raises(BadHost):
        parse_host(text)


def test_json() -> None:
    assert fastjson.loads(b' {"a":[1,2.5,null,true,"\\u00e9"]}\n') == {"a": [1, 2.5, None, True, "é"]}
    assert fastjson.dumps({"b": "é<", "a": [None]}, sort_keys=True) == '{"a":[null],"b":"é<"}'
    assert list(fastjson.documents([b'{"a":1}\n{"b"', b':2}{"c":3}\r\n', b'"end"'])) == [{"a": 1}, {"b": 2}, {"c": 3},
                                                                                         "end"]
    for bad in (b"", b"{", b"1 2", b"NaN", b"[" * 100_000):
        with pytest.raises(fastjson.BadJSON):
            fastjson.loads(bad)


def test_a_socket_that_one_may_not_use_is_a_message_with_the_way_out() -> None:
    text = str(Unreachable("unix:///run/barque/barque.sock", PermissionError(13, "Permission denied")))
    assert text.startswith("permission denied while trying to connect to the Barque daemon socket at unix:///run/")
    assert "group that owns the socket" in text

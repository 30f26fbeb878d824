"""Requests that no proper client sends: refused with the right status, and the connection does not go out of step."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from tests.e2e.engine_world import PATIENCE, EngineWorld, engine_world

HEAD = b"HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("raw")) as made:
        yield made
        assert made.docker("version").code == 0


def send(world: EngineWorld, data: bytes) -> bytes:
    """All that comes back for ``data`` until the server closes, which the last request asks for."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(world.socket)
        answer = b""
        try:
            sock.sendall(data)
            while piece := sock.recv(65536):
                answer += piece
        except (BrokenPipeError, ConnectionResetError):
            pass
        return answer


def ask(world: EngineWorld, method: str, path: str, body: bytes = b"") -> tuple[int, str]:
    """Status and message."""
    head = f"{method} {path} ".encode() + HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = send(world, head + body)
    head, _, content = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), str(json.loads(content)["message"])


@pytest.mark.parametrize(("body", "text"), [
    (b"{", "invalid JSON"),
    (b"[]", "invalid JSON"),
    (b"", "got EOF while reading request body"),
    (b'{"Image": 7}', "invalid JSON"),
    (b'{"Image": "busybox", "HostConfig": {"Memory": "much"}}', "invalid JSON"),
    (b'{"Image": "busybox", "HostConfig": {"Memory": 1e400}}', "invalid JSON"),
    (b'{"Image": "busybox", "HostConfig": {"Memory": NaN}}', "invalid JSON"),
    (b'{"Image": "busybox", "HostConfig": {"Memory": 9223372036854775808}}', "invalid JSON"),
    (b'{"Image": "busybox", "HostConfig": {"Memory": 99999999999999999999999}}', "invalid JSON"),
    (b'{"Image": "busybox"} {"Image": "x"}', "invalid JSON"),
    (b'{"Image": "\xff\xfe"}', "invalid JSON"),
    (b'{"Image":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid JSON"),
    (b'{"Labels":' + b'{"a":' * 2000 + b"1" + b"}" * 2000 + b"}", "invalid JSON"),
], ids=["cut", "list", "empty", "type", "nested type", "huge float", "NaN", "big integer", "huge integer", "two",
        "no UTF-8", "deep list", "deep object"])
def test_malformed_json(world: EngineWorld, body: bytes, text: str) -> None:
    status, message = ask(world, "POST", "/v1.45/containers/create", body)
    assert status == 400
    assert text in message
    assert world.ok("ps", "-aq") == ""


def test_content_type(world: EngineWorld) -> None:
    body = b'{"Image": "busybox"}'
    answer = send(world, b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: text/plain\r\n"
                  b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert b" 400 " in answer.split(b"\r\n")[0]
    assert b"unsupported Content-Type header (text/plain): must be 'application/json'" in answer


@pytest.mark.parametrize(("path", "status", "text"), [
    ("/v1.99/info", 400, "client version 1.99 is too new. Maximum supported API version is 1.55"),
    ("/v1.12/info", 400, "client version 1.12 is too old. Minimum supported API version is 1.24"),
    ("/v1.99999999999999999999/info", 400, "is too new"),
    ("/vx/info", 404, "page not found"),
    ("/nosuch", 404, "page not found"),
    ("/v1.45/containers/nosuch/json", 404, "No such container: nosuch"),
    ("/v1.45/containers/..%2f..%2fetc/json", 404, "No such container"),
    ("/v1.45/containers/json?limit=1_0", 400, "1_0"),
    ("/v1.45/containers/json?filters=nonsense", 400, "invalid filter"),
    ("/v1.45/containers/json?filters=" + "[" * 5000, 400, "invalid filter"),
    ("/v1.45/containers/json?filters={%22nosuch%22:[%22x%22]}", 400, "invalid filter 'nosuch'"),
    ('/v1.45/containers/json?filters={%22expose%22:[%22x%22]}', 400,
     'error while looking up for expose x: strconv.ParseUint: parsing "x": invalid syntax'),
    ("/v1.45/containers/json?filters={%22expose%22:[%2280:1%22]}", 400, "filter for 'expose' should not contain ':'"),
    ("/v1.45/containers/json?filters={%22publish%22:[%225-3%22]}", 400, "Invalid range specified for the Port: 5-3"),
    ("/v1.45/containers/json?filters={%22publish%22:[%2270000%22]}", 400, "value out of range"),
    ("/v1.45/containers/json?filters={%22expose%22:[%22%22]}", 400, "expose : Empty string specified for ports."),
    ("/v1.45/containers/json?filters={%22is-task%22:[%22x%22]}", 400, "invalid filter 'is-task=[x]'"),
    ("/v1.45/containers/json?filters={%22health%22:[%22x%22]}", 400, "unrecognized filter value for health: x"),
    ("/v1.45/containers/json?filters={%22exited%22:[%22x%22]}", 400, "invalid filter 'exited=x': strconv.Atoi"),
    ("/v1.45/events?since=nonsense", 400, "nonsense"),
])
def test_paths_and_versions(world: EngineWorld, path: str, status: int, text: str) -> None:
    got = ask(world, "GET", path)
    assert got[0] == status
    assert text in got[1]


def test_oversized_body_is_not_read_into_memory(world: EngineWorld) -> None:
    """The client is told without having sent it all."""
    head = b"POST /containers/create " + HEAD + b"Connection: close\r\nContent-Length: 1000000000000\r\n\r\n"
    answer = send(world, head + b'{"Image": "' + b"x" * (17 << 20))
    assert answer == b"" or b" 413 " in answer.split(b"\r\n")[0]
    assert process_memory(world) < 200 << 20


def process_memory(world: EngineWorld) -> int:
    assert world.process is not None
    with open(f"/proc/{world.process.pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))


def test_oversized_head(world: EngineWorld) -> None:
    answer = send(world, b"GET /info HTTP/1.1\r\nHost: d\r\nX-Long: " + b"x" * (1 << 20) + b"\r\n\r\n")
    assert answer == b"" or b" 400 " in answer.split(b"\r\n")[0]


SMUGGLED = b"GET /v1.45/containers/smuggled/json HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("framing", [
    b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n",
    b"Content-Length: 0\r\nContent-Length: %d\r\n",
    b"Content-Length: +%d\r\n",
    b"Content-Length: %d, 0\r\n",
    b"Content-Length : %d\r\n",
    b"Transfer-Encoding: chunked, identity\r\nX: %d\r\n",
    b"Transfer-Encoding: xchunked\r\nX: %d\r\n",
], ids=["CL.TE", "TE.CL", "two lengths", "plus", "list", "blank before colon", "chunked not last", "unknown coding"])
@pytest.mark.parametrize("path", [b"/v1.45/containers/json", b"/v1.45/containers/x/attach", b"/v1.45/exec/x/start"])
def test_ambiguous_framing_hides_no_request(world: EngineWorld, path: bytes, framing: bytes) -> None:
    """What one reader takes for a body another takes for a request: neither is executed."""
    body = b"0\r\n\r\n" + SMUGGLED
    answer = send(world, b"POST " + path + b" HTTP/1.1\r\nHost: d\r\n" + framing % len(body) + b"\r\n" + body)
    assert b"No such container: smuggled" not in answer
    assert answer == b"" or b" 400 " in answer.split(b"\r\n")[0]


def test_requests_behind_one_another_are_answered_in_order(world: EngineWorld) -> None:
    first = b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"
    answer = send(world, first * 3 + SMUGGLED)
    assert answer.count(b"200 OK") == 3
    assert b"No such container: smuggled" in answer


@pytest.mark.parametrize(("method", "path", "status", "text"), [
    ("POST", "/containers/x/checkpoints", 501, "This experimental feature is disabled by default. Start the Docker "),
    ("GET", "/containers/x/checkpoints", 501, "daemon in experimental mode in order to enable it."),
    ("DELETE", "/containers/x/checkpoints/y", 501, "This experimental feature is disabled by default."),
    ("POST", "/containers/x/start?checkpoint=y", 400, "checkpoint is only supported in experimental mode")])
def test_checkpoints_are_an_experiment(world: EngineWorld, method: str, path: str, status: int, text: str) -> None:
    code, message = ask(world, method, path)
    assert code == status and text in message

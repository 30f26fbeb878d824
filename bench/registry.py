"""Compare the registry with Debian's docker-registry: `python -m bench.registry`, or `... --only blob`.

Both run in the same namespaces, on directories of the same file system, and are asked in turn by the same client: plain
sockets and fixed bytes, so that little of the time is the client's. Rates and ratios of neighbouring runs are medians;
CPU time is the server's own.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CHUNK = 16 << 20
PIECE = 32 << 10


def _path(location: str) -> str:
    return "/" + location.split("/", 3)[3] if "://" in location else location


class Connection:
    """One HTTP/1.1 connection that sends requests one after the other."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(1 << 20)

    def ask(self, method: str, path: str, body: bytes | memoryview = b"", **headers: str) -> tuple[int, dict[str, str]]:
        """Status and headers; the body is read and dropped."""
        lines = [f"{method} {path} HTTP/1.1", "Host: registry", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        if body:
            self._socket.sendall(body)
        return self._answer(method == "HEAD")

    def _answer(self, head: bool) -> tuple[int, dict[str, str]]:
        data = b""
        while b"\r\n\r\n" not in data:
            size = self._socket.recv_into(self._buffer)
            if not size:
                raise ConnectionError("closed by the server")
            data += self._buffer[:size]
        top, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        status = int(first.split(" ")[1])
        if headers.get("transfer-encoding") == "chunked":
            while not rest.endswith(b"\r\n0\r\n\r\n"):
                rest = rest[-7:] + self._socket.recv(1 << 20)
            return status, headers
        left = 0 if head or status in (204, 304) else int(headers.get("content-length", 0)) - len(rest)
        while left > 0:
            size = self._socket.recv_into(self._buffer, min(left, len(self._buffer)))
            if not size:
                raise ConnectionError("closed by the server")
            left -= size
        return status, headers

    def expect(self, status: int, method: str, path: str, body: bytes | memoryview = b"",
               **headers: str) -> dict[str, str]:
        found, answer = self.ask(method, path, body, **headers)
        if found != status:
            raise RuntimeError(f"{method} {path}: {found}, want {status}")
        return answer

    def start_upload(self, name: str) -> str:
        return _path(self.expect(202, "POST", f"/v2/{name}/blobs/uploads/")["location"])

    def stream(self, method: str, path: str, body: memoryview) -> dict[str, str]:
        """Send ``body`` in chunks."""
        self._socket.sendall(f"{method} {path} HTTP/1.1\r\nHost: registry\r\nTransfer-Encoding: chunked\r\n"
                             "Content-Type: application/octet-stream\r\n\r\n".encode())
        for start in range(0, len(body), PIECE):
            piece = body[start:start + PIECE]
            self._socket.sendmsg([f"{len(piece):x}\r\n".encode(), piece, b"\r\n"])
        self._socket.sendall(b"0\r\n\r\n")
        status, answer = self._answer(head=False)
        if status != 202:
            raise RuntimeError(f"{method} {path}: {status}")
        return answer

    def finish_upload(self, location: str, digest: str, body: bytes | memoryview = b"") -> None:
        mark = "&" if "?" in location else "?"
        self.expect(201, "PUT", f"{location}{mark}digest={digest}", body, Content_Type="application/octet-stream")

    def push_blob(self, name: str, body: bytes | memoryview) -> str:
        digest = digest_of(body)
        self.finish_upload(self.start_upload(name), digest, body)
        return digest

    def close(self) -> None:
        self._socket.close()


def digest_of(body: bytes | memoryview) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


@dataclass
class Server:
    name: str
    port: int
    process: subprocess.Popen[bytes]
    serial: int = 0

    def connect(self) -> Connection:
        return Connection(self.port)

    def fresh(self) -> str:
        """A repository name that was not used before."""
        self.serial += 1
        return f"bench/{self.serial}"

    def processes(self) -> list[int]:
        """The server's process and its workers (proc(5), task/<tid>/children)."""
        own = self.process.pid
        return [own, *map(int, Path(f"/proc/{own}/task/{own}/children").read_text().split())]

    def cpu(self) -> float:
        """Seconds of CPU time so far (proc(5), stat)."""
        total = 0
        for pid in self.processes():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Proportional set size in MB: what the processes share is counted once."""
        total = 0
        for pid in self.processes():
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        return total / 1024


class MemoryWatch:
    """Looks at a server's memory again and again inside the context; ``most``: what it saw at most, in MB."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.most = server.memory()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            self.most = max(self.most, self._server.memory())

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise RuntimeError("the registry ended early")


def barque(work: Path, port: int, workers: int) -> Server:
    code = "import sys; from barque.registry.server import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, "serve", "--addr", f"127.0.0.1:{port}",
                                "--root", f"{work}/barque", "--log-level", "error",
                                *(["--workers", str(workers)] if workers else [])], stderr=subprocess.DEVNULL)
    _wait(port, process)
    return Server("barque", port, process)


def docker_registry(work: Path, port: int) -> Server:
    config = work / "config.yml"
    config.write_text(f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: "
                      f"{{rootdirectory: {work}/docker}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n")
    process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    _wait(port, process)
    return Server("docker-registry", port, process)


@dataclass(frozen=True)
class Case:
    """``run`` does ``count`` units of work on a server after ``prepare``; ``goal``: ratio of the rates to reach."""

    name: str
    unit: str
    goal: float
    count: int
    run: Callable[[Server, int], None]


BIG = memoryview(os.urandom(1 << 20) * 512)
CLIENTS = (2, 4, 8, 16)


def _many(server: Server, count: int, clients: int, step: Callable[[Connection], object]) -> None:
    def loop(_number: int) -> None:
        connection = server.connect()
        for _ in range(count // clients):
            step(connection)
        connection.close()

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(loop, range(clients)))


def upload_whole(server: Server, count: int) -> None:
    connection = server.connect()
    connection.finish_upload(connection.start_upload(server.fresh()), _big_digest(), BIG)
    connection.close()


def upload_many(clients: int) -> Callable[[Server, int], None]:
    """Each a part of the whole."""
    size = len(BIG) // clients
    parts = [BIG[start:start + size] for start in range(0, len(BIG), size)]

    def run(server: Server, count: int) -> None:
        name, left = server.fresh(), iter(parts)
        _many(server, clients, clients, lambda c: c.push_blob(name, next(left)))

    return run


def upload_streamed(server: Server, count: int) -> None:
    """Of a length that is not told, in pieces of 32 KiB, as docker's engine sends layers."""
    connection = server.connect()
    location = connection.start_upload(server.fresh())
    answer = connection.stream("PATCH", location, BIG)
    connection.finish_upload(_path(answer["location"]), _big_digest())
    connection.close()


def upload_chunked(server: Server, count: int) -> None:
    connection = server.connect()
    location = connection.start_upload(server.fresh())
    for start in range(0, len(BIG), CHUNK):
        answer = connection.expect(202, "PATCH", location, BIG[start:start + CHUNK],
                                   Content_Range=f"{start}-{start + CHUNK - 1}")
        location = _path(answer["location"])
    connection.finish_upload(location, _big_digest())
    connection.close()


_digests: list[str] = []


def _big_digest() -> str:
    if not _digests:
        _digests.append(digest_of(BIG))
    return _digests[0]


def download(clients: int) -> Callable[[Server, int], None]:
    return lambda server, count: _many(server, clients * max(1, count // 512 // clients), clients,
                                       lambda c: c.expect(200, "GET", f"/v2/shared/blobs/{_big_digest()}"))


def manifest(method: str, clients: int) -> Callable[[Server, int], None]:
    return lambda server, count: _many(server, count, clients,
                                       lambda c: c.expect(200, method, "/v2/shared/manifests/latest", Accept=MANIFEST))


def small_blobs(server: Server, count: int) -> None:
    path = f"/v2/shared/blobs/{digest_of(SMALL)}"
    _many(server, count, 8, lambda c: c.expect(200, "GET", path))


SMALL = bytes(range(250)) * 20


def small_uploads(server: Server, count: int) -> None:
    name = server.fresh()
    connection = server.connect()
    for _ in range(count):
        connection.push_blob(name, os.urandom(2000))
    connection.close()


def _manifest(config: bytes) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
                       "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": len(config),
                                  "digest": digest_of(config)}}).encode()


def tagging(server: Server, count: int) -> None:
    body, names = _manifest(SMALL), iter(range(count))
    name = server.fresh()
    connection = server.connect()
    connection.push_blob(name, SMALL)
    connection.close()
    _many(server, count, 4, lambda c: c.expect(201, "PUT", f"/v2/{name}/manifests/t{next(names)}", body,
                                               Content_Type=MANIFEST))


def tag_listing(clients: int) -> Callable[[Server, int], None]:
    return lambda server, count: _many(server, count, clients, lambda c: c.expect(200, "GET", "/v2/tagged/tags/list"))


CASES = [
    Case("blob upload, one request", "MB/s", 1.0, 512, upload_whole),
    Case("blob upload, 16 MB chunks", "MB/s", 1.0, 512, upload_chunked),
    Case("blob upload, 32 KiB pieces", "MB/s", 1.0, 512, upload_streamed),
    *(Case(f"blob upload, {clients} clients", "MB/s", 1.0, 512, upload_many(clients)) for clients in CLIENTS),
    Case("blob download, 1 client", "MB/s", 1.0, 2048, download(1)),
    *(Case(f"blob download, {clients} clients", "MB/s", 1.0, 4096, download(clients)) for clients in CLIENTS),
    *(Case(f"manifest {method}, {clients} client{'s' * (clients > 1)}", "/s", 1.0, 4000, manifest(method, clients))
      for method in ("GET", "HEAD") for clients in (1, *CLIENTS)),
    Case("5 kB blob GET, 8 clients", "/s", 3.0, 2400, small_blobs),
    Case("small blob POST+PUT, 1 client", "/s", 1.5, 100, small_uploads),
    Case("tagging, 4 clients", "/s", 1.5, 400, tagging),
    *(Case(f"list of 10,000 tags, {clients} client{'s' * (clients > 1)}", "/s", 1.0, 32, tag_listing(clients))
      for clients in (1, *CLIENTS)),
]


def _prepare(server: Server, tags: int) -> None:
    connection = server.connect()
    connection.push_blob("shared", BIG)
    connection.push_blob("shared", SMALL)
    body = _manifest(SMALL)
    connection.expect(201, "PUT", "/v2/shared/manifests/latest", body, Content_Type=MANIFEST)
    connection.push_blob("tagged", SMALL)
    connection.close()
    numbers = iter(range(tags))
    _many(server, tags, 4, lambda c: c.expect(201, "PUT", f"/v2/tagged/manifests/tag-{next(numbers):06}", body,
                                              Content_Type=MANIFEST))


def _compare(case: Case, pair: list[Server], runs: int) -> list[float]:
    """The most memory of each while it ran, in MB."""
    rates: dict[str, list[float]] = {server.name: [] for server in pair}
    costs: dict[str, list[float]] = {server.name: [] for server in pair}
    memory = dict.fromkeys(rates, 0.0)
    for number in range(runs):
        for server in pair if number % 2 == 0 else pair[::-1]:
            cpu, began = server.cpu(), time.perf_counter()
            with MemoryWatch(server) as watch:
                case.run(server, case.count)
            rates[server.name].append(case.count / (time.perf_counter() - began))
            costs[server.name].append(1000 * (server.cpu() - cpu) / case.count)
            memory[server.name] = max(memory[server.name], watch.most)
    ours, theirs = (statistics.median(rates[server.name]) for server in pair)
    mine, other = (statistics.median(costs[server.name]) for server in pair)
    # Each pair of runs side by side: the machine's load changes between pairs more than within one.
    ratios = [one / two for one, two in zip(*(rates[server.name] for server in pair), strict=True)]
    ratio = statistics.median(ratios)
    print(f"{case.name:32} {ours:9.1f} {theirs:9.1f} {case.unit:5} {ratio:6.2f} {min(ratios):5.2f}-{max(ratios):5.2f} "
          f">= {case.goal:4.2f} {'yes' if ratio >= case.goal else 'NO ':3} {mine:8.3f} {other:8.3f}"
          f"  {_sizes([memory[server.name] for server in pair])}", flush=True)
    return [memory[server.name] for server in pair]


def _sizes(pair: list[float]) -> str:
    return f"{pair[0]:6.1f} {pair[1]:6.1f} {pair[0] / pair[1]:6.2f}"


def _memory(pair: list[Server]) -> list[float]:
    return [server.memory() for server in pair]


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.registry", description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="of ours; 0: its default")
    parser.add_argument("--tags", type=int, default=10_000, help="tags of the listed repository")
    options = parser.parse_args()
    if shutil.which("docker-registry") is None:
        print("nothing to compare with here: docker-registry not found (Debian package docker-registry)")
        return 0
    if os.geteuid() == 0 and ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="barque-bench-")))
        pair = [barque(work, 5061, options.workers), docker_registry(work, 5062)]
        for server in pair:
            stack.callback(server.process.wait)
            stack.callback(server.process.terminate)
        time.sleep(1)
        sizes = {"fresh": _memory(pair)}
        for server in pair:
            _prepare(server, options.tags)
        print(f"{'median of each':32} {'barque':>9} {'docker':>9} {'':5} {'ratio':>6} {'spread':>11} {'goal':>11} "
              f"{'CPU-ms for each':>17}  {'most memory, MB':>20}")
        most = [_compare(case, pair, options.runs) for case in CASES if options.only in case.name]
        sizes["at most"] = [max(column) for column in zip(*most, strict=True)]
        sizes["at the end"] = _memory(pair)
        time.sleep(15)
        sizes["15 s later"] = _memory(pair)
        for when, both in sizes.items():
            print(f"memory {when:25} {_sizes(both)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

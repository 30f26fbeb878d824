"""The server as a set of processes, asked as clients ask it: they share sockets, limits and counts, and one may die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from barque.registry.server import main
from tests.registry_peers import free_port
from tests.registry_world import Client, digest, until

SERVE = "import sys; from barque.registry.server import main; sys.exit(main(sys.argv[1:]))"
#: "secret" by bcrypt with the lowest cost.
HASH = "$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"


class Server:
    """``said``: what it wrote to its standard error."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._log = log

    def said(self) -> str:
        return self._log.read_text()

    def workers(self) -> list[int]:
        pid = self.process.pid
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    async def until_said(self, pattern: str, times: int = 1) -> None:
        deadline = time.monotonic() + 60
        while len(re.findall(pattern, self.said())) < times:
            assert self.process.poll() is None and time.monotonic() < deadline, self.said()
            await asyncio.sleep(0.02)


@contextlib.contextmanager
def server(root: Path, *options: str, workers: int = 3) -> Iterator[Server]:
    port, log = free_port(), root / "log"
    command = [sys.executable, "-c", SERVE, "serve", "--addr", f"127.0.0.1:{port}", "--root", str(root / "data"),
               "--workers", str(workers), *options]
    command = ["sh", "-c", 'ulimit -Sn 200; exec "$0" "$@"', *command]
    with log.open("wb") as said, subprocess.Popen(command, stderr=said) as process:
        try:
            deadline = time.monotonic() + 60
            while "serves" not in log.read_text():
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            yield Server(process, port, log)
            process.terminate()
            assert process.wait(60) == 0, log.read_text()
        finally:
            process.kill()


async def fresh(url: str, path: str, **options: object) -> int:
    """The status of an answer over a connection of its own."""
    async with aiohttp.ClientSession(url) as session, session.get(path, **options) as answer:  # type: ignore[arg-type]
        return answer.status


async def test_metrics_are_those_of_all_workers(tmp_path: Path) -> None:
    status = free_port()
    with server(tmp_path, "--status-addr", f"127.0.0.1:{status}") as found:
        for _ in range(30):
            assert await fresh(found.url, "/v2/") == 200
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{status}/metrics") as answer:
            assert 'requests_total{method="GET",route="/v2/",code="200"} 30' in await answer.text()


def test_workers_take_as_many_connections_as_the_machine_lets_them(tmp_path: Path) -> None:
    with server(tmp_path) as found:
        for pid in found.workers():
            (line,) = [line.split() for line in Path(f"/proc/{pid}/limits").read_text().splitlines()
                       if line.startswith("Max open files")]
            assert line[3] == line[4] != "200"


async def test_rate_is_one_for_all_workers(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[limits]\nrequests_per_second = 0.001\nburst = 20\n")
    with server(tmp_path, "--config", str(tmp_path / "config")) as found:
        statuses = [await fresh(found.url, "/v2/") for _ in range(40)]
        assert statuses == [200] * 20 + [429] * 20


async def test_quota_is_one_for_all_workers(tmp_path: Path) -> None:
    (tmp_path / "config").write_text('[[quota]]\nrepositories = "*"\nsize = "10kB"\n')
    with server(tmp_path, "--config", str(tmp_path / "config")) as found:
        statuses = []
        for number in range(15):
            data = bytes([number]) * 1000
            async with aiohttp.ClientSession(found.url) as session, session.post(
                    "/v2/app/blobs/uploads/", params={"digest": digest(data)}, data=data) as answer:
                statuses.append(answer.status)
        assert statuses == [201] * 10 + [403] * 5


async def test_worker_that_dies_is_replaced_and_loses_nothing(tmp_path: Path) -> None:
    with server(tmp_path) as found:
        async with aiohttp.ClientSession(found.url) as session:
            image = await Client(session).push_image("app", "v1", b"layer" * 1000)
            async with session.post("/v2/app/blobs/uploads/") as answer:
                location = answer.headers["Location"]
            async with session.patch(location, data=b"first") as answer:
                assert answer.status == 202
        before = found.workers()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        await found.until_said("is started anew", 3)
        async with aiohttp.ClientSession(found.url) as session:
            client = Client(session)
            assert await client.bytes_of("/v2/app/manifests/v1") == image
            async with client.put(location, data=b"second", params={"digest": digest(b"firstsecond")}) as answer:
                assert answer.status == 201


        async def complete() -> bool:
            return len(found.workers()) == 3

        await until(complete)
        assert not set(before) & set(found.workers())


async def test_workers_end_with_the_one_that_watches_them(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="registry:"), server(tmp_path) as found:
        pids = found.workers()
        watched = [os.pidfd_open(pid) for pid in pids]
        found.process.kill()
        loop = asyncio.get_running_loop()
        for fd in watched:
            ended = loop.create_future()
            loop.add_reader(fd, ended.set_result, None)
            await asyncio.wait_for(ended, 60)
            loop.remove_reader(fd)
            os.close(fd)


def certificate(directory: Path, name: str) -> None:
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
                    "-keyout", str(directory / "key"), "-out", str(directory / "cert")], check=True,
                   capture_output=True)


async def test_hangup_reads_certificate_and_users_anew(tmp_path: Path) -> None:
    certificate(tmp_path, "first")
    users = tmp_path / "users"
    users.write_text(f"ann:{HASH}\n")
    with server(tmp_path, "--tls-cert", str(tmp_path / "cert"), "--tls-key", str(tmp_path / "key"),
                "--htpasswd", str(users), "--log-level", "debug", workers=2) as found:
        async def login(user: str) -> int:
            headers = {"Authorization": aiohttp.encode_basic_auth(user, "secret")}
            return await fresh(f"https://127.0.0.1:{found.port}", "/v2/", ssl=False, headers=headers)

        async def shown() -> str:
            return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", found.port), timeout=60)

        read = "are those of the files now"
        await found.until_said(read, 2)
        first = (tmp_path / "cert").read_text()
        assert (await shown(), await login("ann"), await login("bob")) == (first, 200, 401)
        (tmp_path / "cert").write_text("nonsense")
        found.process.send_signal(signal.SIGHUP)
        await found.until_said("reload: ", 2)
        assert (await shown(), await login("ann")) == (first, 200)
        certificate(tmp_path, "second")
        users.write_text(f"bob:{HASH}\n")
        found.process.send_signal(signal.SIGHUP)
        await found.until_said(read, 4)
        second = (tmp_path / "cert").read_text()
        assert (await shown(), await login("ann"), await login("bob")) == (second, 401, 200)
        os.kill(found.workers()[0], signal.SIGKILL)  # who comes instead has read them too
        await found.until_said(read, 5)
        assert {await shown() for _ in range(4)} == {second}


def test_what_makes_no_sense_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config"
    config.write_text('workers = 2\n[[upstream]]\nprefix = "hub"\nhost = "docker.io"\n')
    assert main(["--config", str(config), "--root", str(tmp_path / "data")]) == 1
    assert "a registry with upstreams has one worker" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--workers", "0", "--root", str(tmp_path / "data")])

"""Ways to a registry: through proxies, over TLS with an own authority, with a certificate of the client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from barque.errors import BarqueError
from barque.image.client.hosts import HostConfig
from barque.image.client.proxies import Proxies
from barque.oci.reference import parse
from tests.image_world import FaultyRegistry, faulty_registry, make_image, served, world

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
IMAGE = make_image({"a": b"x" * 300_000})
NAME = "registry.test"


@dataclass
class Proxy:
    """Leads every request to ``target``, whatever host it is for. ``seen``: request lines; ``told``: credentials."""

    target: int
    port: int = 0
    seen: list[str] = field(default_factory=list)
    told: set[str] = field(default_factory=set)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *headers = head.split("\r\n")
        self.seen.append(line)
        self.told |= {value.split(": ", 1)[1] for value in headers if value.lower().startswith("proxy-authorization:")}
        inner, outer = await asyncio.open_connection("127.0.0.1", self.target)
        if line.startswith("CONNECT "):
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            method, url, version = line.split(" ")
            path = "/" + url.removeprefix("http://").partition("/")[2]
            outer.write("\r\n".join([f"{method} {path} {version}", *headers]).encode())
        await asyncio.gather(_pump(reader, outer), _pump(inner, writer))


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    sink.close()


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(port)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(proxy.handle(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ca.pem``, and ``server`` and ``client`` certificates that it signed."""
    made = tmp_path_factory.mktemp("authority")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl(made, "req", "-x509", *key, "-days", "1", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem",
             "-addext", "keyUsage=critical,keyCertSign")
    for name in ("server", "client"):
        (made / "extensions").write_text(f"subjectAltName=DNS:{NAME}\n")
        _openssl(made, "req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        _openssl(made, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                 "-days", "1", "-extfile", "extensions", "-out", f"{name}.pem")
    return made


@asynccontextmanager
async def tls_registry(authority: Path, *, wants_client: bool) -> AsyncIterator[FaultyRegistry]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server.pem", authority / "server.key")
    if wants_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority / "ca.pem")
    registry = FaultyRegistry()
    async with served(registry._answer, context) as registry.port:
        registry.add("app", "1", IMAGE)
        yield registry


def trust(directory: Path, authority: Path, *, client: bool) -> str:
    mine = directory / "certs.d" / NAME
    mine.mkdir(parents=True)
    shutil.copy(authority / "ca.pem", mine / "ca.crt")
    if client:
        shutil.copy(authority / "client.pem", mine / "client.cert")
        shutil.copy(authority / "client.key", mine / "client.key")
    return str(directory / "certs.d")


async def pull(root: Path, hosts: HostConfig) -> str:
    async with world(root, hosts) as here:
        pulled = await here.puller.pull(parse(f"{NAME}/app:1"), None, None, lambda _: None)
        return pulled.digest


async def test_tls_by_connect_with_own_authority_and_client_certificate(tmp_path: Path, authority: Path) -> None:
    certs = trust(tmp_path, authority, client=True)
    async with tls_registry(authority, wants_client=True) as registry, proxy_to(registry.port) as proxy:
        hosts = HostConfig(certs_dir=certs, proxies=Proxies(https=f"http://ann:secret@127.0.0.1:{proxy.port}"))
        await pull(tmp_path / "root", hosts)
        assert set(proxy.seen) == {f"CONNECT {NAME}:443 HTTP/1.1"}
        assert proxy.told == {"Basic " + base64.b64encode(b"ann:secret").decode()}


@pytest.mark.parametrize(("known", "client", "text"), [
    (False, False, "certificate signed by unknown authority"), (True, False, "")])
async def test_tls_without_trust_or_without_own_certificate(tmp_path: Path, authority: Path, known: bool, client: bool,
                                                            text: str) -> None:
    certs = trust(tmp_path, authority, client=client) if known else ""
    async with tls_registry(authority, wants_client=True) as registry, proxy_to(registry.port) as proxy:
        hosts = HostConfig(certs_dir=certs, proxies=Proxies(https=f"127.0.0.1:{proxy.port}"))
        with pytest.raises(BarqueError) as caught:
            await pull(tmp_path / "root", hosts)
        assert text in caught.value.message and NAME in caught.value.message


async def test_plain_requests_by_proxy(tmp_path: Path) -> None:
    async with faulty_registry() as registry, proxy_to(registry.port) as proxy:
        registry.add("app", "1", IMAGE)
        hosts = HostConfig(insecure=(NAME,), proxies=Proxies(http=f"http://127.0.0.1:{proxy.port}"))
        await pull(tmp_path / "root", hosts)
        assert proxy.seen and all(line.startswith(f"GET http://{NAME}/v2/") for line in proxy.seen)
        local = parse(f"{registry.address}/app:1")
        proxy.seen.clear()
        async with world(tmp_path / "other", hosts) as here:
            await here.puller.pull(local, None, None, lambda _: None)
        assert proxy.seen == [], "this machine is asked directly"

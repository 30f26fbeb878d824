"""The token flow: challenges, scopes, expiry, identity tokens, and who may see a password."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from barque.errors import BarqueError, InvalidArgument
from barque.image.client.auth import Credentials, decode_header, parse_challenges
from barque.image.client.errors import RegistryRefused, UnsafeRealm
from barque.image.client.hosts import Endpoint, HostConfig
from barque.image.client.login import LoginFailed, domain_of, login
from barque.image.client.repository import Repository
from barque.image.client.token import Tokens
from barque.image.client.transport import RetryPolicy, Transport
from barque.registry.app import make_app
from barque.registry.auth import Access, TokenAuthority
from barque.registry.listen import serving
from barque.registry.storage.filesystem import FilesystemStorage
from tests.image_world import served

ANN = Credentials(username="ann", password="secret")


@dataclass
class TokenServer:
    """Gives ``ann``/``secret`` everything she asks for, and strangers the right to pull."""

    tokens: dict[str, list[Access]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    posted: list[dict[str, str]] = field(default_factory=list)
    expires_in: int = 300

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            form = {name: str(value) for name, value in (await request.post()).items()}
            self.posted.append(form)
            if form["refresh_token"] != "identity":
                return web.json_response({"details": "bad"}, status=401)
            scopes, known = form.get("scope", "").split(), True
        else:
            scopes = request.query.getall("scope", [])
            known = request.headers.get("Authorization") == ANN.basic
            if "Authorization" in request.headers and not known:
                return web.json_response({"details": "incorrect username or password"}, status=401)
        self.asked.append(" ".join(scopes))
        rights = [Access(kind, name, action) for kind, name, actions in (scope.split(":") for scope in scopes)
                  for action in actions.split(",") if known or action == "pull"]
        token = f"token{len(self.tokens)}"
        self.tokens[token] = rights
        given: dict[str, object] = {"token": token, "expires_in": self.expires_in}
        if request.query.get("offline_token"):
            given["refresh_token"] = "identity"
        return web.json_response(given)


@asynccontextmanager
async def guarded(root: Path) -> AsyncIterator[tuple[TokenServer, Transport, Endpoint]]:
    server = TokenServer()
    storage = FilesystemStorage(str(root))
    transport = Transport(HostConfig(), RetryPolicy(attempts=1))
    try:
        async with served(server.answer) as port:
            authority = TokenAuthority(f"http://127.0.0.1:{port}/token", "test", server.tokens.get)
            async with serving(make_app(storage, authenticator=authority), "127.0.0.1", 0) as registry:
                yield server, transport, Endpoint(f"http://127.0.0.1:{registry}", f"127.0.0.1:{registry}")
                await transport.close()
                await asyncio.sleep(0)
    finally:
        storage.close()


async def upload(repository: Repository) -> int:
    async with repository.request("POST", repository.url("blobs/uploads/"), accept=(202,)) as response:
        return response.status


async def test_token_is_fetched_once_for_a_scope(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (server, transport, endpoint):
        repository = Repository(transport, endpoint, "app", ANN, "pull,push")
        assert [await upload(repository) for _ in range(3)] == [202] * 3
        assert server.asked == ["repository:app:pull,push"]


async def test_stranger_may_pull_only(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (_, transport, endpoint):
        with pytest.raises(RegistryRefused) as caught:
            await upload(Repository(transport, endpoint, "app", None, "pull,push"))
        assert caught.value.code == "UNAUTHORIZED"


async def test_dead_token_is_renewed_half_way(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (server, transport, endpoint):
        repository = Repository(transport, endpoint, "app", ANN, "pull,push")
        await upload(repository)
        server.tokens.clear()
        assert await upload(repository) == 202
        assert len(server.asked) == 2


async def test_mount_asks_for_both_repositories(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (server, transport, endpoint):
        repository = Repository(transport, endpoint, "app", ANN, "pull,push")
        async with repository.request("POST", repository.url(f"blobs/uploads/?mount=sha256:{'0' * 64}&from=base"),
                                      also="repository:base:pull", accept=(202,)):
            pass
        assert server.asked == ["repository:app:pull,push repository:base:pull"]


async def test_identity_token_is_posted(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (server, transport, endpoint):
        credentials = Credentials(username="<token>", identity_token="identity")
        await upload(Repository(transport, endpoint, "app", credentials, "pull,push"))
        assert server.posted == [{"grant_type": "refresh_token", "refresh_token": "identity", "service": "test",
                                  "client_id": "docker", "scope": "repository:app:pull,push"}]


async def test_token_dies_before_its_end(tmp_path: Path) -> None:
    now = [0.0]
    async with guarded(tmp_path) as (_, transport, endpoint):
        tokens = Tokens(transport, endpoint, None, clock=lambda: now[0])
        async with transport.send(endpoint, "GET", f"{endpoint.url}/v2/", {}) as response:
            (challenge,) = parse_challenges(response.headers.getall("WWW-Authenticate"))
        token = await tokens.fetch(challenge, "repository:app:pull")
        now[0] = 200
        assert tokens.cached("repository:app:pull") == token
        assert tokens.cached("repository:other:pull") is None
        now[0] = 250
        assert tokens.cached("repository:app:pull") is None


async def test_password_does_not_leave_in_the_clear() -> None:
    transport = Transport(HostConfig(), RetryPolicy(attempts=1))
    tokens = Tokens(transport, Endpoint("https://registry.example", "registry.example"), ANN)
    (challenge,) = parse_challenges(['Bearer realm="http://192.0.2.1/token",service="x"'])
    with pytest.raises(UnsafeRealm, match=r"refusing to send credentials of registry.example"):
        await tokens.fetch(challenge, "")


async def test_login(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (_, transport, endpoint):
        address = Credentials(username="ann", password="secret", serveraddress=f"http://{endpoint.host}/v2/")
        assert await login(transport, address) == "identity"
        for wrong in (Credentials(username="ann", password="guess", serveraddress=endpoint.host),):
            with pytest.raises(LoginFailed, match="unauthorized"):
                await login(transport, wrong)


def test_addresses_of_docker_hub() -> None:
    assert {domain_of(text) for text in ("", "https://index.docker.io/v1/", "docker.io", "registry-1.docker.io")} == \
        {"docker.io"}
    assert domain_of("https://host:5000/v2/") == "host:5000"


@pytest.mark.parametrize(("header", "expected"), [
    ('Bearer realm="https://a/t?x=1",service="s, t",scope="repository:a:pull"',
     [("bearer", {"realm": "https://a/t?x=1", "service": "s, t", "scope": "repository:a:pull"})]),
    ("Basic realm=plain", [("basic", {"realm": "plain"})]),
    (r'Basic realm="a \"b\" c", Bearer realm="r"', [("basic", {"realm": 'a "b" c'}), ("bearer", {"realm": "r"})]),
    ("Negotiate", [("negotiate", {})]),
    ("", []),
    ('="', []),
])
def test_challenges(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(found.scheme, found.parameters) for found in parse_challenges([header])] == expected


def test_registry_auth_header() -> None:
    data = json.dumps({"auth": base64.b64encode(b"ann:se:cret").decode(), "serveraddress": "x"}).encode()
    for encode in (base64.urlsafe_b64encode, base64.b64encode, lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=")):
        found = decode_header(encode(data).decode())
        assert found is not None
        assert (found.username, found.password) == ("ann", "se:cret")
        assert "cret" not in repr(found)
    assert decode_header(base64.urlsafe_b64encode(b"{}").decode()) is None
    assert decode_header(None) is None
    for bad in ("!!!!", base64.urlsafe_b64encode(b"[]").decode()):
        with pytest.raises(BarqueError) as caught:
            decode_header(bad)
        assert isinstance(caught.value, InvalidArgument)

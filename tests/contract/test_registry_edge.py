"""Around the requests: who may ask, how often, and who is told; the server as it is started from its configuration."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from barque.cli.main import _main as barque
from barque.registry import events
from barque.registry.app import PlainApp, Settings, make_app, make_status_app
from barque.registry.assemble import settings_of, storage_of
from barque.registry.config import InvalidConfig, load
from barque.registry.events import Receiver
from barque.registry.http.messages import Request, Response
from barque.registry.http.routes import Route
from barque.registry.listen import serving
from barque.registry.server import main
from barque.registry.storage.filesystem import FilesystemStorage
from tests.registry_peers import answering, free_port
from tests.registry_world import Client, digest, registry_over, until

#: "secret" by bcrypt with the lowest cost, for ann and bob.
HASH = "$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"
RULES = """
[[access]]
user = "ann"
repositories = "team/*"
actions = ["pull", "push"]
[[access]]
user = "root"
actions = ["*"]
"""


def basic(user: str, password: str = "secret") -> dict[str, str]:
    return {"Authorization": aiohttp.encode_basic_auth(user, password)}


@asynccontextmanager
async def registry(root: Path, text: str) -> AsyncIterator[Client]:
    """From the text of a configuration; ``HTPASSWD`` in it stands for a file with the users ann, bob and root."""
    users = root / "htpasswd"
    users.write_text("".join(f"{user}:{HASH}\n" for user in ("ann", "bob", "root")))
    config = load(text.replace("HTPASSWD", str(users)) + f'\n[storage]\nroot = "{root}/data"\n')
    storage = storage_of(config)
    settings = settings_of(config)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(storage.aclose)
        status = await stack.enter_async_context(serving(make_status_app(storage, settings.metrics), "127.0.0.1", 0))
        port = await stack.enter_async_context(serving(make_app(storage, settings), "127.0.0.1", 0))
        client = Client(await stack.enter_async_context(aiohttp.ClientSession(f"http://127.0.0.1:{port}")))
        client.users = settings.users  # type: ignore[attr-defined]
        client.status_url = f"http://127.0.0.1:{status}"  # type: ignore[attr-defined]
        yield client


async def status(client: Client, method: str, path: str, headers: dict[str, str] | None = None) -> int:
    async with client._session.request(method, path, headers=headers) as answer:
        return answer.status


async def test_rights_by_password(tmp_path: Path) -> None:
    async with registry(tmp_path, RULES + '[auth]\nhtpasswd = "HTPASSWD"\n') as client:
        push = "/v2/team/app/blobs/uploads/"
        assert await status(client, "GET", "/v2/") == 401
        assert await status(client, "GET", "/v2/", basic("ann")) == 200
        assert await status(client, "GET", "/v2/", basic("ann", "wrong")) == 401
        assert await status(client, "POST", push) == 401
        assert await status(client, "POST", push, basic("ann")) == 202
        assert await status(client, "POST", push, basic("bob")) == 403
        assert await status(client, "POST", "/v2/other/blobs/uploads/", basic("ann")) == 403
        assert await status(client, "DELETE", "/v2/team/app/manifests/v1", basic("ann")) == 403
        assert await status(client, "DELETE", "/v2/team/app/manifests/v1", basic("root")) == 404
        assert await status(client, "GET", "/v2/_catalog", basic("ann")) == 403
        assert await status(client, "GET", "/v2/_catalog", basic("root")) == 200
        # A mount reads from its source.
        mount = f"/v2/team/app/blobs/uploads/?mount={digest(b'x')}&from=secret"
        assert await status(client, "POST", mount, basic("ann")) == 403


async def test_upload_can_be_cancelled_by_who_may_push(tmp_path: Path) -> None:
    async with registry(tmp_path, RULES + '[auth]\nhtpasswd = "HTPASSWD"\n') as client:
        async with client.post("/v2/team/app/blobs/uploads/", headers=basic("ann")) as answer:
            location = answer.headers["Location"]
        assert await status(client, "DELETE", location, basic("bob")) == 403
        assert await status(client, "DELETE", location, basic("ann")) == 204


async def test_anonymous_pull(tmp_path: Path) -> None:
    async with registry(tmp_path, '[auth]\nhtpasswd = "HTPASSWD"\nanonymous_pull = true\n') as client:
        async with client.post("/v2/app/blobs/uploads/", params={"digest": digest(b"x")}, data=b"x",
                               headers=basic("ann")) as answer:
            assert answer.status == 201
        assert await client.bytes_of(f"/v2/app/blobs/{digest(b'x')}") == b"x"
        assert await status(client, "GET", f"/v2/app/blobs/{digest(b'x')}", basic("", "")) == 200
        assert await status(client, "GET", f"/v2/app/blobs/{digest(b'x')}", basic("ann", "wrong")) == 401
        assert await status(client, "DELETE", f"/v2/app/blobs/{digest(b'x')}") == 401
        assert await status(client, "GET", "/v2/") == 401  # so that a login asks for the password


async def test_tokens_of_the_built_in_server(tmp_path: Path) -> None:
    text = RULES + '[auth]\nhtpasswd = "HTPASSWD"\nanonymous_pull = true\n[auth.tokens]\nservice = "reg"\n'
    async with registry(tmp_path, text) as client:
        async with client.post("/v2/team/app/blobs/uploads/") as answer:
            challenge = answer.headers["WWW-Authenticate"]
        assert challenge.startswith('Bearer realm="http://127.0.0.1:')
        assert '/token",service="reg",scope="repository:team/app:pull,push"' in challenge

        async def token(scope: str, headers: dict[str, str] | None = None) -> dict[str, str]:
            async with client.get("/token", params={"service": "reg", "scope": scope}, headers=headers) as answer:
                assert answer.status == 200
                return {"Authorization": f"Bearer {(await answer.json())['token']}"}

        push = "/v2/team/app/blobs/uploads/"
        ann = await token("repository:team/app:pull,push,delete", basic("ann"))
        assert await status(client, "POST", push, ann) == 202
        assert await status(client, "DELETE", "/v2/team/app/manifests/v1", ann) == 401  # not hers, so not in the token
        nobody = await token("repository:team/app:pull,push")
        assert await status(client, "GET", "/v2/team/app/manifests/v1", nobody) == 404
        assert await status(client, "POST", push, nobody) == 401
        assert await status(client, "GET", "/token", basic("ann", "wrong")) == 401
        async with client.get("/token", params={"service": "other"}) as answer:
            assert answer.status == 400
        form = aiohttp.FormData({"grant_type": "password", "username": "root", "password": "secret",
                                 "scope": "registry:catalog:*"})
        async with client._session.post("/token", data=form) as answer:
            access = (await answer.json())["access_token"]
        assert await status(client, "GET", "/v2/_catalog", {"Authorization": f"Bearer {access}"}) == 200


async def test_refresh_token_stands_for_the_password_until_that_is_changed(tmp_path: Path) -> None:
    text = RULES + '[auth]\nhtpasswd = "HTPASSWD"\n[auth.tokens]\nservice = "reg"\n'
    async with registry(tmp_path, text) as client:
        async def posted(**form: str) -> tuple[int, dict[str, Any]]:
            async with client._session.post("/token", data=form) as answer:
                return answer.status, await answer.json()

        offline = {"service": "reg", "offline_token": "true"}
        async with client.get("/token", params=offline, headers=basic("ann")) as answer:
            refresh = (await answer.json())["refresh_token"]
        async with client.get("/token", params=offline) as answer:
            assert "refresh_token" not in await answer.json()  # nobody in particular
        status_, answered = await posted(grant_type="refresh_token", refresh_token=refresh, service="reg",
                                         scope="repository:team/app:pull,push,delete")
        assert (status_, answered["refresh_token"]) == (200, refresh)
        bearer = {"Authorization": f"Bearer {answered['access_token']}"}
        assert await status(client, "POST", "/v2/team/app/blobs/uploads/", bearer) == 202
        assert await status(client, "DELETE", "/v2/team/app/manifests/v1", bearer) == 401
        # Neither kind of token can be taken for the other.
        assert await status(client, "GET", "/v2/", {"Authorization": f"Bearer {refresh}"}) == 401
        assert (await posted(grant_type="refresh_token", refresh_token=answered["access_token"]))[0] == 401
        assert (await posted(grant_type="refresh_token", refresh_token=refresh[:-2] + "AA"))[0] == 401
        assert (await posted(grant_type="guess"))[0] == 400
        _, answered = await posted(grant_type="password", username="root", password="secret", access_type="offline")
        other = answered["refresh_token"]
        client.users.replace(f"root:{HASH}\n")  # type: ignore[attr-defined]
        assert (await posted(grant_type="refresh_token", refresh_token=refresh))[0] == 401
        assert (await posted(grant_type="refresh_token", refresh_token=other))[0] == 200


async def test_read_only_and_rate_limit(tmp_path: Path) -> None:
    limits = "read_only = true\n[limits]\nrequests_per_second = 0.01\nburst = 3\n"
    async with registry(tmp_path, limits) as client:
        assert await status(client, "POST", "/v2/app/blobs/uploads/") == 405
        assert await status(client, "GET", "/v2/") == 200
        assert await status(client, "GET", "/v2/app/tags/list") == 404
        async with client.get("/v2/") as answer:
            assert answer.status == 429
            assert int(answer.headers["Retry-After"]) > 50
            assert (await answer.json())["errors"][0]["code"] == "TOOMANYREQUESTS"


async def test_log_health_and_metrics(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with registry(tmp_path, 'access_log = true\n[auth]\nhtpasswd = "HTPASSWD"\n') as client:
        with caplog.at_level(logging.INFO, "barque.registry.access"):
            assert await status(client, "GET", "/v2/app/tags/list?n=5", basic("ann")) == 404
        (line,) = [record.getMessage() for record in caplog.records]
        assert line.startswith('127.0.0.1 ann "GET /v2/app/tags/list?n=5" 404 ')
        assert await client.json_of("/healthz") == {"status": "ok"}
        assert await status(client, "GET", "/metrics") == 404  # at the address of its own only
        text = (await client.bytes_of(client.status_url + "/metrics")).decode()  # type: ignore[attr-defined]
        assert 'route="/v2/{name}/tags/list",code="404"} 1' in text
        assert "in_flight_requests 0" in text
        (tmp_path / "data/version").unlink()
        for url in ("", client.status_url):  # type: ignore[attr-defined]
            async with client.get(f"{url}/healthz") as answer:
                assert (answer.status, (await answer.json())["status"]) == (503, "unavailable")


async def test_webhooks_tell_all_in_order_and_try_again(tmp_path: Path) -> None:
    batches: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    refused = []

    async def hook(request: Request) -> Response:
        assert request.headers["x-key"] == "k"
        if not refused:
            refused.append(1)
            return Response(500)
        assert request.headers["content-type"] == "application/vnd.docker.distribution.events.v1+json"
        await batches.put(json.loads(await request.body.read(1 << 20)))
        return Response()

    async with serving(PlainApp([Route("POST", "/", hook)]), "127.0.0.1", 0) as port:
        text = f'[[webhook]]\nurl = "http://127.0.0.1:{port}/"\nactions = ["push", "delete"]\nheaders = {{X-Key = "k"}}'
        async with registry(tmp_path, text) as client:
            image = await client.push_image("app", "v1", b"layer")
            assert await client.status("/v2/app/manifests/v1") == 200
            await client.bytes_of("/v2/app/manifests/v1")
            async with client.delete(f"/v2/app/manifests/{digest(image)}") as answer:
                assert answer.status == 202
            seen: list[dict[str, Any]] = []
            async with asyncio.timeout(60):
                while len(seen) < 4:
                    seen += (await batches.get())["events"]
    assert [event["action"] for event in seen] == ["push", "push", "push", "delete"]
    pushed = seen[2]["target"]
    assert (pushed["repository"], pushed["tag"], pushed["digest"]) == ("app", "v1", digest(image))
    assert pushed["url"].endswith(f"/v2/app/manifests/{digest(image)}")


async def test_receiver_that_is_away_delays_nobody_and_is_asked_ever_later(
        tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told: asyncio.Queue[list[str]] = asyncio.Queue()

    async def hook(request: Request) -> Response:
        await told.put([event["target"]["tag"] for event in (json.loads(await request.body.read(1 << 20)))["events"]])
        return Response()

    port = free_port()
    receiver = Receiver(f"http://127.0.0.1:{port}/", frozenset({"delete"}), pause=0.01)
    storage = FilesystemStorage(str(tmp_path))
    async with registry_over(storage, Settings(receivers=(receiver,))) as client:
        with caplog.at_level(logging.WARNING, "barque.registry.events"):
            for tag in ("one", "two", "three"):
                await client.push_image("app", tag, b"layer")
                assert await status(client, "DELETE", f"/v2/app/manifests/{tag}") == 202

            async def asked() -> bool:
                return len(caplog.records) >= 4

            await until(asked)
        pauses = [record.getMessage().rpartition("again in ")[2] for record in caplog.records[:4]]
        assert pauses == ["0.01 s", "0.02 s", "0.04 s", "0.08 s"]
        async with serving(PlainApp([Route("POST", "/", hook)]), "127.0.0.1", port):
            seen: list[str] = []
            async with asyncio.timeout(60):
                while len(seen) < 3:
                    seen += await told.get()
            assert seen == ["one", "two", "three"]
    storage.close()


async def test_events_that_find_no_place_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "QUEUE", 2)
    settings = Settings(receivers=(Receiver(f"http://127.0.0.1:{free_port()}/", pause=60),))
    storage = FilesystemStorage(str(tmp_path))
    async with registry_over(storage, settings) as client:
        for number in range(6):
            await client.push_blob("app", b"%d" % number)
        # One is with the sender, which waits to try again, and two are in the queue.
        assert "barque_registry_dropped_events_total 3" in settings.metrics.text()
        monkeypatch.setattr(events, "GRACE", 0.0)
    storage.close()


@pytest.mark.parametrize("text", [
    "", '[storage]\nroot = "x"\n[storage.s3]\nendpoint = "http://x"\nbucket = "b"\naccess_key = "a"\nsecret_key = "s"',
    '[storage.s3]\nendpoint = "x"\nbucket = "b"\naccess_key = "a"\nsecret_key = "s"'])
def test_storage_must_be_one(text: str) -> None:
    with pytest.raises(InvalidConfig):
        storage_of(load(text))


@pytest.mark.parametrize("text", [
    '[[access]]\nuser = "x"\nactions = ["pull"]', "[auth]", "[auth.tokens]", '[auth.tokens]\njwks = "x"',
    '[auth]\nhtpasswd = "HTPASSWD"\n[[access]]\nuser = "x"\nactions = ["fly"]', '[[webhook]]\nurl = "ftp://x"',
    '[[webhook]]\nurl = "http://x"\nactions = ["fly"]'])
def test_contradictions_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "htpasswd").write_text(f"ann:{HASH}\n")
    with pytest.raises(InvalidConfig):
        settings_of(load(text.replace("HTPASSWD", str(tmp_path / "htpasswd"))))


async def test_collection_and_check_as_commands(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By the rules of a configuration, while a server has the directory open."""
    root, config = tmp_path / "data", tmp_path / "config.toml"
    config.write_text(f'[storage]\nroot = "{root}"\n[gc]\ngrace = "0s"\nuploads = "0s"\n'
                      '[[retention]]\nuntagged = "0s"\ntags = "ci-*"\nkeep_tags = 1\n')

    async def command(*words: str) -> tuple[int, str]:
        code = await asyncio.to_thread(barque, ["registry", *words, "--config", str(config)])
        return code, capfd.readouterr().out

    storage = FilesystemStorage(str(root))
    async with registry_over(storage) as client:
        for tag in ("ci-1", "ci-2", "v1"):
            await client.push_image("app", tag, tag.encode() * 1000)
            await asyncio.sleep(0.01)  # tags are told apart by their times
        code, said = await command("gc")
        assert code == 0
        assert said.startswith("removed 1 tags, 1 manifests, 1 blobs of repositories"), said
        assert (await client.json_of("/v2/app/tags/list"))["tags"] == ["ci-2", "v1"]
        assert await command("check") == (0, "0 damages found\n")
        for path in root.rglob(digest(b"v1" * 1000)[7:]):
            path.write_bytes(b"wrong")
        code, said = await command("check")
        assert (code, said) == (1, f"app: blob {digest(b'v1' * 1000)} is damaged\n1 damages found\n")
        code, said = await command("check", "--repair")
        assert (code, said.splitlines()[-1]) == (0, "2 damages repaired")
        await client.push_image("app", "v1", b"v1" * 1000)
        assert await command("check") == (0, "0 damages found\n")
    storage.close()


def test_example_of_the_documentation_serves(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/registry.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    # Whoever runs the tests in the background may have them ignore SIGINT.
    command = ["env", "--default-signal=INT", sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            pushed = subprocess.run(
                ["curl", "-fsS", "-X", "POST", "--data-binary", "layer",
                 f"{url}app/blobs/uploads/?digest={digest(b'layer')}"], check=True, capture_output=True, timeout=60)
            assert pushed.stdout == b""
            assert list((tmp_path / "registry-data/repositories/app").rglob(digest(b"layer")[7:]))
            process.send_signal(signal.SIGINT)
            process.wait(60)
        finally:
            process.kill()


def test_server_from_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config, port, status_port = tmp_path / "config.toml", free_port(), free_port()
    config.write_text(f'listen = "127.0.0.1:{port}"\nstatus_listen = "127.0.0.1:{status_port}"\n'
                      '[gc]\ninterval = "1h"\n')
    code = "import sys; from barque.registry.server import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "serve", "--config", str(config), "--root", str(tmp_path / "data")]
    with answering(command, port) as address:
        done = subprocess.run(["curl", "-fsS", f"http://127.0.0.1:{status_port}/healthz"], capture_output=True,
                              check=True)
        assert json.loads(done.stdout) == {"status": "ok"}
        assert main(["gc", "--root", str(tmp_path / "data")]) == 0
        assert address == f"127.0.0.1:{port}"
    assert main(["check", "--root", str(tmp_path / "data")]) == 0
    assert "0 damages found" in capfd.readouterr().out
    assert main(["serve", "--addr", "nowhere", "--root", str(tmp_path / "data")]) == 1
    assert main(["gc", "--config", str(tmp_path / "none")]) == 1


def test_tls_and_a_clean_end(tmp_path: Path) -> None:
    cert, key, port = tmp_path / "cert.pem", tmp_path / "key.pem", free_port()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
                    "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    code = "import sys; from barque.registry.server import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--addr", f"127.0.0.1:{port}", "--root", str(tmp_path / "data"),
               "--tls-cert", str(cert), "--tls-key", str(key)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        assert server.stderr.readline().startswith(f"registry: https://127.0.0.1:{port} serves ")
        done = subprocess.run(["curl", "-fsS", "--cacert", str(cert), f"https://127.0.0.1:{port}/v2/"], check=True,
                              capture_output=True, env={**os.environ, "no_proxy": "*"})
        assert done.stdout == b"{}"
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0

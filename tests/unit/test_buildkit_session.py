"""What the engine asks of a client's session: files as archives, secrets, agents, accounts; results sent back."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from barque.api.buildkit import agents, filesend, filesync
from barque.api.buildkit.sessions import Session, SessionFailed
from tests.buildkit_client import Client, DirectoryClient, FaultyClient, session_of

pytestmark = pytest.mark.asyncio


def _tree(root: Path) -> Path:
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "x").write_bytes(b"x" * 10)
    (root / "sub" / "x").chmod(0o4755)
    (root / "sub.d").write_text("sorts between sub and sub/x for who compares whole names")
    (root / "big").write_bytes(os.urandom(5 << 20))
    (root / "empty").touch()
    (root / "link").symlink_to("sub/x")
    os.link(root / "big", root / "hard")
    os.mkfifo(root / "pipe")
    (root / "ünïcode").write_text("u")
    for number in range(300):
        (root / f"many{number}").write_text(str(number))
    return root


async def _archived(session: Session, **options: list[str]) -> tarfile.TarFile:
    named = {name.replace("_", "-"): value for name, value in options.items()}
    data = b"".join([piece async for piece in filesync.archive(session, "context", named)])
    return tarfile.open(fileobj=io.BytesIO(data))


async def test_files_become_an_archive(tmp_path: Path) -> None:
    root = _tree(tmp_path / "t")
    async with session_of(Client({"context": root})) as session:
        with await _archived(session) as tar:
            members = {member.name: member for member in tar}
            assert members.keys() == {str(path.relative_to(root)) for path in root.rglob("*")}
            assert members["sub/x"].mode == 0o4755
            assert members["sub"].isdir() and members["pipe"].isfifo()
            assert (members["link"].linkname, members["hard"].linkname) == ("sub/x", "big")
            assert members["big"].mtime == int((root / "big").stat().st_mtime)
            for name in ("big", "empty", "many299", "ünïcode"):
                file = tar.extractfile(members[name])
                assert file is not None and file.read() == (root / name).read_bytes()


async def test_patterns_go_to_the_client(tmp_path: Path) -> None:
    root = _tree(tmp_path / "t")
    async with session_of(Client({"context": root})) as session:
        with await _archived(session, exclude_patterns=["many*", "ünï*", "sub/x"]) as tar:
            assert sorted(tar.getnames()) == ["big", "empty", "hard", "link", "pipe", "sub", "sub.d"]
        with await _archived(session, followpaths=["sub/x"]) as tar:
            assert tar.getnames() == ["sub", "sub/x"]


@pytest.mark.parametrize(("fault", "words"), [
    ("error", "permission denied"), ("longer", "f has changed"), ("shorter", "f has changed"),
    ("unasked", "nobody asked for"), ("negative", "size of -1 bytes"), ("end", "ended")])
async def test_a_transfer_that_goes_wrong(fault: str, words: str) -> None:
    client = FaultyClient()
    client.fault = fault
    async with session_of(client) as session:
        with pytest.raises(SessionFailed, match=words):
            await _archived(session)


async def test_a_client_that_goes_away_in_the_middle(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(64 << 20))
    async with session_of(Client({"context": tmp_path})) as session:
        pieces = filesync.archive(session, "context", {})
        await anext(aiter(pieces))
        session._channel.close()
        with pytest.raises(SessionFailed):
            async for _ in pieces:
                pass


async def test_secrets_and_accounts() -> None:
    client = Client(secrets={"a": b"1"}, accounts={"r.example": ("joe", "pw"), "registry-1.docker.io": ("", "token")})
    async with session_of(client) as session:
        assert await session.secret("a") == b"1"
        assert await session.secret("b") is None
        joe = await session.credentials("r.example")
        assert joe is not None and (joe.username, joe.password) == ("joe", "pw")
        hub = await session.credentials("docker.io")
        assert hub is not None and hub.identity_token == "token"
        assert await session.credentials("other.example") is None
        with pytest.raises(SessionFailed, match="does not offer"):
            async with session.call("/x.Y/Z", bytes, bytes):
                pass


async def test_an_upload() -> None:
    async with session_of(Client(uploads={"id": b"archive"})) as session:
        assert b"".join([piece async for piece in session.upload("id")]) == b"archive"


async def test_an_agent_as_a_socket(tmp_path: Path) -> None:
    async with session_of(Client()) as session:
        assert await session.has_agent("default") and not await session.has_agent("other")
        async with agents.forward(session, "default", str(tmp_path / "s")):
            for _ in range(2):
                reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
                writer.write(b"hello")
                writer.write_eof()
                assert await reader.read() == b"HELLO"
                writer.close()


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 100_000):
        yield data[at:at + 100_000]


def _tar(root: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(root.rglob("*"), reverse=True):  # parents last: the sender has to put that right
            tar.add(path, path.relative_to(root), recursive=False)
    return buffer.getvalue()


async def test_results_as_an_archive(tmp_path: Path) -> None:
    client = Client()
    data = _tar(_tree(tmp_path / "t"))
    async with session_of(client) as session:
        assert await filesend.tarball(session, 3, _pieces(data)) == len(data)
    assert client.received == {3: data}


async def test_results_as_files(tmp_path: Path) -> None:
    client = DirectoryClient()
    root = _tree(tmp_path / "t")
    async with session_of(client) as session:
        await filesend.files(session, 0, _pieces(_tar(root)))
    found = client.received[0]
    assert found.keys() == {str(path.relative_to(root)) for path in root.rglob("*")}
    assert found["sub/x"] == (1 << 23 | 0o755, "", b"x" * 10)
    assert found["link"][1] == "sub/x"
    assert (found["big"][2] or found["hard"][2]) == (root / "big").read_bytes()

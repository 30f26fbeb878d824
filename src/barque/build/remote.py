"""Sources that are not in the context: addresses and Git repositories, for ADD and as contexts."""

from __future__ import annotations

import asyncio
import hashlib
import os
import posixpath
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit

import aiohttp

from barque.errors import InvalidArgument, Unavailable
from barque.image.client.errors import go_text
from barque.oci.digest import Digest, InvalidDigest
from barque.store.tree import remove_tree

_BLOCK = 1 << 20
_GIT_ENVIRONMENT = {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null",
                    "GIT_PROTOCOL_FROM_USER": "0", "GIT_ALLOW_PROTOCOL": "git:http:https:ssh", "LC_ALL": "C",
                    "GIT_SSH_COMMAND": "ssh -oBatchMode=yes -oStrictHostKeyChecking=accept-new"}


class CannotFetch(Unavailable):
    text = "{reason}"


class WrongChecksum(InvalidArgument):
    text = "digest mismatch {actual}: expected {expected}"


class GitFailed(InvalidArgument):
    text = "failed to fetch {address}: {reason}"


@dataclass(frozen=True)
class Download:
    """A file in a directory of its own. ``name`` is what the address or the server calls it, "" if neither does."""

    directory: str
    name: str
    content_type: str


@dataclass(frozen=True)
class GitAddress:
    """``ref`` is a branch, tag or commit, ``subdirectory`` relative to the root of the repository."""

    address: str
    ref: str = ""
    subdirectory: str = ""


def parse_git(text: str) -> GitAddress:
    """``address#ref:subdirectory``; raises InvalidArgument."""
    address, _, fragment = text.partition("#")
    ref, _, subdirectory = fragment.partition(":")
    if address.startswith("github.com/"):
        address = f"https://{address}"
    if address.startswith("-") or ref.startswith("-"):
        raise InvalidArgument(f"invalid Git address: {text}")
    return GitAddress(address, ref, subdirectory.strip("/"))


class Fetcher:
    """Close with :meth:`close`. ``proxy_of``: from scheme and host to the URL of a proxy, None for none."""

    def __init__(self, proxy_of: Callable[[str, str], str | None] = lambda _scheme, _host: None) -> None:
        self._proxy_of = proxy_of
        self._session: aiohttp.ClientSession | None = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=120))
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def download(self, address: str, parent: str, checksum: str = "") -> Download:
        """The file behind ``address`` as mode 0600 with the server's time. Raises :class:`CannotFetch`,
        :class:`WrongChecksum`.
        """
        expected = _checked(checksum)
        parts = urlsplit(address)
        proxy = self._proxy_of(parts.scheme, parts.netloc.rpartition("@")[2])
        try:
            async with self._opened().get(address, proxy=proxy) as response:
                if response.status >= 400:
                    raise CannotFetch(reason=f"failed to GET {address} with status {response.status} {response.reason}")
                name = _file_name(address, response.headers.get("Content-Disposition", ""))
                directory = os.path.join(parent, f"download-{secrets.token_hex(8)}")
                os.mkdir(directory, 0o700)
                path = os.path.join(directory, name or "__unnamed__")
                digest = await _save(response.content.iter_chunked(_BLOCK), path, expected)
                _set_time(path, response.headers.get("Last-Modified", ""))
                content_type = response.headers.get("Content-Type", "")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise CannotFetch(reason=f'Get "{address}": {go_text(error)}') from None
        if expected is not None and digest != expected:
            raise WrongChecksum(actual=digest, expected=expected)
        return Download(directory, name, content_type.partition(";")[0].strip())

    async def clone(self, source: GitAddress, parent: str, *, keep_git_dir: bool) -> str:
        """The files of a repository at one commit, below ``parent``; returns the directory of the repository's root.

        Raises :class:`GitFailed`. No hooks, filters or configuration of the repository or of this machine run.
        """
        directory = os.path.join(parent, f"git-{secrets.token_hex(8)}")
        os.mkdir(directory, 0o755)
        await _git(source, directory, "init", "-q", "--template=")
        await _git(source, directory, "remote", "add", "origin", source.address)
        ref = source.ref or "HEAD"
        try:
            await _git(source, directory, "fetch", "-q", "--depth=1", "--no-tags", "origin", "--", ref)
            await _git(source, directory, "checkout", "-q", "--detach", "FETCH_HEAD")
        except GitFailed:
            # Not every server can cut a history short or give out single commits: then all of it is fetched.
            await _git(source, directory, "fetch", "-q", "--tags", "origin", "+refs/heads/*:refs/heads/*",
                       *(["HEAD"] if ref == "HEAD" else []))
            await _git(source, directory, "checkout", "-q", "--detach", "FETCH_HEAD" if ref == "HEAD" else ref)
        await _git(source, directory, "submodule", "update", "-q", "--init", "--recursive", "--depth=1")
        if not keep_git_dir:
            await asyncio.to_thread(_remove_git, directory)
        return directory


async def _git(source: GitAddress, directory: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "git", "-c", "core.hooksPath=/dev/null", "-c", "protocol.file.allow=user", *arguments, cwd=directory,
        env={**_GIT_ENVIRONMENT, "PATH": os.defpath, "HOME": directory}, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE)
    try:
        _, errors = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if process.returncode:
        raise GitFailed(address=source.address, reason=errors.decode("utf-8", "replace").strip())


def _remove_git(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(fd, ".git")
    finally:
        os.close(fd)


def _checked(checksum: str) -> Digest | None:
    if not checksum:
        return None
    try:
        return Digest.parse(checksum)
    except InvalidDigest as error:
        raise InvalidArgument(f"invalid checksum {checksum!r}: {error.message}") from None


def _file_name(address: str, disposition: str) -> str:
    path = unquote(urlsplit(address).path)
    if path and not path.endswith("/"):
        name = posixpath.basename(path)
        if name not in ("", ".", ".."):
            return name
    message = Message()
    message["Content-Disposition"] = disposition
    name = posixpath.basename(message.get_filename("") or "")
    return name if name not in (".", "..") else ""


async def _save(chunks: AsyncIterator[bytes], path: str, expected: Digest | None) -> str:
    state = hashlib.new(expected.algorithm if expected else "sha256")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        async for chunk in chunks:
            state.update(chunk)
            await asyncio.to_thread(file.write, chunk)
    return f"{state.name}:{state.hexdigest()}"


def _set_time(path: str, text: str) -> None:
    """The server's Last-Modified; without one the epoch, as docker does, so that the layer does not change."""
    try:
        seconds = int(parsedate_to_datetime(text).timestamp()) if text else 0
    except (ValueError, TypeError):
        seconds = 0
    os.utime(path, (seconds, seconds))

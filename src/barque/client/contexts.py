"""docker's context store: ``contexts/meta/<sha256 of the name>/meta.json`` and ``contexts/tls/<same>/docker/*.pem``."""

from __future__ import annotations

import os
import shutil

from barque import fastjson
from barque.client.tlsfiles import TlsFiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT = "default"
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-")
TLS_NAMES = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}


class ContextError(Exception):
    """A context is missing, exists already or has a bad name; the message is docker's."""


def check_name(name: str) -> None:
    if not name:
        raise ContextError("context name cannot be empty")
    if name == DEFAULT:
        raise ContextError('"default" is a reserved context name')
    if not set(name) <= _NAME_CHARACTERS or not name[0].isalnum() or len(name) < 2:
        raise ContextError(
            f'context name "{name}" is invalid, names are validated against regexp "^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$"')


class ContextStore:
    """The contexts below ``directory`` (``~/.docker/contexts``). ``default`` is no entry: it is the environment's."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def _directory(self, kind: str, name: str) -> str:
        from hashlib import sha256

        return os.path.join(self.directory, kind, sha256(name.encode()).hexdigest())

    def metadata_path(self, name: str) -> str:
        return self._directory("meta", name)

    def tls_path(self, name: str) -> str:
        return self._directory("tls", name)

    def load(self, name: str) -> dict[str, Any]:
        """The meta.json document; raises :class:`ContextError`."""
        path = os.path.join(self.metadata_path(name), "meta.json")
        try:
            with open(path, "rb") as file:
                document = fastjson.loads(file.read())
        except FileNotFoundError:
            raise ContextError(f'context "{name}": context not found: open {path}: no such file or directory') from None
        except fastjson.BadJSON as error:
            raise ContextError(f'context "{name}": parsing {path}: {error}') from None
        if not isinstance(document, dict):
            raise ContextError(f'context "{name}": parsing {path}: not a JSON object')
        return document

    def names(self) -> list[str]:
        found = []
        meta = os.path.join(self.directory, "meta")
        for entry in sorted(os.listdir(meta)) if os.path.isdir(meta) else []:
            try:
                with open(os.path.join(meta, entry, "meta.json"), "rb") as file:
                    found.append(str(fastjson.loads(file.read())["Name"]))
            except (OSError, fastjson.BadJSON, KeyError, TypeError):
                continue  # a directory that some other tool left half made is no context
        return sorted(found)

    def tls_files(self, name: str) -> list[str]:
        directory = os.path.join(self.tls_path(name), "docker")
        return sorted(os.listdir(directory)) if os.path.isdir(directory) else []

    def host(self, name: str) -> tuple[str, TlsFiles | None]:
        """The endpoint of a context and its certificates."""
        endpoint = self.load(name).get("Endpoints", {}).get("docker") or {}
        host = str(endpoint.get("Host", ""))
        if not host:
            raise ContextError(f'context "{name}" has no docker endpoint')
        skip = bool(endpoint.get("SkipTLSVerify"))
        files = self.tls_files(name)
        if not files and not skip:
            return host, None
        directory = os.path.join(self.tls_path(name), "docker")
        present = {key: os.path.join(directory, file) for key, file in TLS_NAMES.items() if file in files}
        return host, TlsFiles(present.get("ca", ""), present.get("cert", ""), present.get("key", ""), verify=not skip)

    def save(self, document: dict[str, Any], tls: dict[str, bytes]) -> None:
        """Write a context; ``tls`` maps file names (``ca.pem``) to contents and replaces what was there."""
        name = str(document["Name"])
        directory = self.metadata_path(name)
        os.makedirs(directory, mode=0o755, exist_ok=True)
        shutil.rmtree(self.tls_path(name), ignore_errors=True)
        if tls:
            target = os.path.join(self.tls_path(name), "docker")
            os.makedirs(target, mode=0o700)
            for file, data in tls.items():
                _write(os.path.join(target, file), data, 0o600)
        _write(os.path.join(directory, "meta.json"), fastjson.dumps(document).encode(), 0o644)

    def tls_contents(self, name: str) -> dict[str, bytes]:
        """The certificates and key of a context by file name."""
        directory = os.path.join(self.tls_path(name), "docker")
        return {file: read_file(os.path.join(directory, file)) for file in self.tls_files(name)}

    def remove(self, name: str) -> None:
        if not os.path.isdir(self.metadata_path(name)):
            raise ContextError(f'context "{name}" does not exist')
        shutil.rmtree(self.metadata_path(name))
        shutil.rmtree(self.tls_path(name), ignore_errors=True)


def read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _write(path: str, data: bytes, mode: int) -> None:
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with open(fd, "wb") as file:
        file.write(data)
    os.rename(temporary, path)

"""docker's client configuration: ``config.json`` with its credentials, and the helpers ``docker-credential-*``.

Format: https://docs.docker.com/reference/cli/docker/#configuration-files. Unknown keys are kept when the file is
written back.
"""

from __future__ import annotations

import os

from barque import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The key under which Docker Hub's credentials are stored.
HUB = "https://index.docker.io/v1/"
#: Sent in place of a user name when the password is an identity token.
TOKEN_USER = "<token>"


class BadConfig(Exception):
    """The configuration file or a credential helper cannot be used; the message says which and why."""


class ConfigFile:
    """The document of ``directory``/config.json; a missing file is an empty document."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.path = os.path.join(directory, "config.json")
        self.document: dict[str, Any] = {}
        try:
            with open(self.path, "rb") as file:
                data = file.read()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return
        if data.strip():
            try:
                document = fastjson.loads(data)
            except fastjson.BadJSON as error:
                raise BadConfig(f"parsing config file ({self.path}): {error}") from None
            if not isinstance(document, dict):
                raise BadConfig(f"parsing config file ({self.path}): not a JSON object")
            self.document = document

    def text(self, key: str) -> str:
        value = self.document.get(key)
        return value if isinstance(value, str) else ""

    def table(self, key: str) -> dict[str, Any]:
        value = self.document.get(key)
        return value if isinstance(value, dict) else {}

    def save(self) -> None:
        """Write the document beside the old one and rename; mode 0600, or the mode that the file has."""
        import json

        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        target = os.path.realpath(self.path)
        try:
            mode = os.stat(target).st_mode & 0o777
        except FileNotFoundError:
            mode = 0o600
        temporary = f"{target}.{os.getpid()}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with open(fd, "w", encoding="utf-8") as file:
                file.write(json.dumps(self.document, indent="\t", sort_keys=True, ensure_ascii=False))
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise

    # -- credentials

    def _helper(self, server: str) -> str:
        helper = self.table("credHelpers").get(server)
        return helper if isinstance(helper, str) and helper else self.text("credsStore")

    def credentials(self, server: str) -> dict[str, str]:
        """``{username, password | identitytoken, serveraddress}`` for a registry, {} where there are none."""
        if helper := self._helper(server):
            return _from_helper(helper, server)
        auths = self.table("auths")
        entry = auths.get(server)
        if entry is None:  # older clients stored whole URLs
            entry = next((value for key, value in auths.items() if bare_host(key) == bare_host(server)), None)
        return _decode_entry(entry, server) if isinstance(entry, dict) else {}

    def all_credentials(self) -> dict[str, dict[str, str]]:
        """Every stored credential by server, for requests that may need several registries."""
        servers = set(self.table("auths")) | set(self.table("credHelpers"))
        found = {server: self.credentials(server) for server in servers}
        return {server: entry for server, entry in found.items() if entry}

    def store(self, server: str, username: str, password: str, token: str) -> None:
        """Keep a login, in the helper where one is configured, else in the file (which is saved)."""
        if helper := self._helper(server):
            secret = {"ServerURL": server, "Username": TOKEN_USER if token else username, "Secret": token or password}
            _call_helper(helper, "store", fastjson.dumps(secret))
            self.document.setdefault("auths", {})[server] = {}
        else:
            from base64 import b64encode

            entry = {"auth": b64encode(f"{username}:{'' if token else password}".encode()).decode()}
            if token:
                entry["identitytoken"] = token
            self.document.setdefault("auths", {})[server] = entry
        self.save()

    def erase(self, server: str) -> None:
        """Forget a login."""
        if helper := self._helper(server):
            _call_helper(helper, "erase", server)
        if server in self.table("auths"):
            del self.document["auths"][server]
            self.save()


def bare_host(server: str) -> str:
    """``https://host/v1/`` -> ``host``."""
    return server.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _decode_entry(entry: dict[str, Any], server: str) -> dict[str, str]:
    from base64 import b64decode

    result = {"serveraddress": server}
    if auth := entry.get("auth"):
        try:
            user, colon, password = b64decode(auth).decode().partition(":")
        except ValueError:
            raise BadConfig(f"invalid auth configuration for {server}") from None
        if not colon:
            raise BadConfig("invalid auth configuration file")
        result["username"], result["password"] = user, password.strip("\0")
    for key in ("username", "password", "identitytoken", "registrytoken"):
        if entry.get(key):
            result[key] = str(entry[key])
    return result if len(result) > 1 else {}


def _call_helper(name: str, action: str, text: str) -> str:
    import subprocess

    program = f"docker-credential-{name}"
    try:
        done = subprocess.run([program, action], input=text.encode(), capture_output=True, check=False)
    except FileNotFoundError:
        raise BadConfig(f'error getting credentials - err: exec: "{program}": executable file not found in $PATH, '
                        "out: ``") from None
    except OSError as error:
        raise BadConfig(f"error running {program}: {error.strerror}") from None
    output = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode:
        if "credentials not found" in output:
            return ""
        raise BadConfig(f"error getting credentials - err: exit status {done.returncode}, out: `{output}`")
    return output


def _from_helper(helper: str, server: str) -> dict[str, str]:
    output = _call_helper(helper, "get", server)
    if not output:
        return {}
    try:
        answer = fastjson.loads(output)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (fastjson.BadJSON, KeyError, TypeError):
        raise BadConfig(f"docker-credential-{helper} gave no credentials for {server}") from None
    if not (user or secret):    # what docker-credential-pass says of one that it does not have
        return {}
    if user == TOKEN_USER:
        return {"serveraddress": server, "identitytoken": secret}
    return {"serveraddress": server, "username": user, "password": secret}


def encode_auth(entry: object) -> str:
    """The value of X-Registry-Auth and X-Registry-Config."""
    from base64 import urlsafe_b64encode

    return urlsafe_b64encode(fastjson.dumps(entry).encode()).decode()

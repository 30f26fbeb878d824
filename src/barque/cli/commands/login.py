"""``login`` and ``logout``."""

from __future__ import annotations

import sys

from barque.cli.command import Command
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, STRING, Flag
from barque.client.config import HUB, BadConfig, bare_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values

_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")


def _server(values: Values) -> str:
    """The key of the credentials: the host alone, Docker Hub's long form."""
    if not values.arguments:
        return HUB
    host = bare_host(values.arguments[0])
    return HUB if host in _HUB_NAMES else host


def _password(app: App, values: Values) -> str:
    if values["password-stdin"]:
        if values["password"]:
            raise CommandError("conflicting options: cannot specify both --password and --password-stdin")
        if not values["username"]:
            raise CommandError("the --password-stdin option requires --username to be set")
        return sys.stdin.read().removesuffix("\n").removesuffix("\r")
    if values["password"]:
        app.err("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
    return str(values["password"])


def _ask(app: App, prompt: str, *, secret: bool) -> str:
    if not sys.stdin.isatty():
        raise CommandError("Error: Cannot perform an interactive login from a non TTY device")
    if secret:
        import getpass

        return getpass.getpass(prompt)
    app.out(prompt)
    app.flush()
    return sys.stdin.readline().strip()


def _login(app: App, values: Values) -> int:
    server = _server(values)
    username, password = values["username"], _password(app, values)
    try:
        stored = app.config.credentials(server)
    except BadConfig as error:
        raise CommandError(str(error)) from None
    if not username and not password and stored:
        body = dict(stored)
        app.line(f"Authenticating with existing credentials... [Username: {stored.get('username', '<token>')}]")
    else:
        username = username or _ask(app, "Username: ", secret=False)
        if not username:
            raise CommandError("username is required")
        password = password or _ask(app, "Password: ", secret=True)
        if not password:
            raise CommandError("password is required")
        body = {"username": username, "password": password, "serveraddress": server}
    answer = app.engine.post("/auth", None, body) or {}
    token = answer.get("IdentityToken", "")
    try:
        app.config.store(server, body.get("username", ""), body.get("password", ""), token or body.get("identitytoken",
                                                                                                       ""))
    except BadConfig as error:
        raise CommandError(f"Error saving credentials: {error}") from None
    if not app.config.text("credsStore") and server not in app.config.table("credHelpers"):
        app.err(f"\nWARNING! Your credentials are stored unencrypted in '{app.config.path}'.\n"
                "Configure a credential helper to remove this warning.\n")
    app.line(answer.get("Status") or "Login Succeeded")
    return 0


def _logout(app: App, values: Values) -> int:
    server = _server(values)
    try:
        app.config.erase(server)
    except BadConfig as error:
        raise CommandError(f"WARNING: could not erase credentials:\n{server}: {error}") from None
    app.line(f"Removing login credentials for {server}")
    return 0


LOGIN = Command("login", "[OPTIONS] [SERVER]",
                "Authenticate to a registry.\nDefaults to Docker Hub if no server is given.",
                _login, most=1, flags=lambda: [
                    Flag("password", "p", STRING, "Password or access token"),
                    Flag("password-stdin", "", BOOL, "Take the password from stdin"),
                    Flag("username", "u", STRING, "User name"),
                ], examples="barque login -u alice --password-stdin localhost:5000 < token")
LOGOUT = Command("logout", "[SERVER]", "Log out from a registry.\nDefaults to Docker Hub if no server is given.",
                 _logout,
                 most=1, examples="barque logout localhost:5000")

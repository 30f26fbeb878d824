"""What every command shares: the environment, the configuration, the engine, the standard streams.

The environment is read here and nowhere else. Host, in this order: ``-H``, ``--context``, BARQUE_HOST, DOCKER_HOST,
DOCKER_CONTEXT, ``currentContext`` of the configuration, the default socket (where a daemon is started if none answers).
"""

from __future__ import annotations

import os
import sys

from barque.cli.errors import CommandError
from barque.client.engine import Engine
from barque.client.transport import BadHost, parse_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.flags import Values
    from barque.client.config import ConfigFile
    from barque.client.tlsfiles import TlsFiles
    from barque.client.transport import Endpoint

DEFAULT_SOCKET = "/run/barque/barque.sock"


def default_host(environ: dict[str, str], uid: int) -> str:
    """Where the local daemon listens: root's in /run, a user's in XDG_RUNTIME_DIR."""
    if uid == 0:
        return f"unix://{DEFAULT_SOCKET}"
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
    own = f"{runtime}/barque/barque.sock"
    return f"unix://{own}" if os.path.exists(own) else f"unix://{DEFAULT_SOCKET}"


class App:
    """One run of the program. ``options`` are the global flags."""

    def __init__(self, options: Values, environ: dict[str, str]) -> None:
        self.options = options
        self.environ = environ
        self._config: ConfigFile | None = None
        self._engine: Engine | None = None
        self.host_was_chosen = True
        self.may_start_engine = True

    @property
    def debug(self) -> bool:
        return bool(self.options["debug"]) or self.options["log-level"] == "debug"

    # -- output

    def out(self, text: str) -> None:
        """Write to stdout; a reader that has gone ends the program as a shell expects."""
        try:
            sys.stdout.write(text)
        except BrokenPipeError:
            self._quiet()

    def line(self, text: str) -> None:
        self.out(text + "\n")

    def flush(self) -> None:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            self._quiet()

    @staticmethod
    def _quiet() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise CommandError("", 141)

    def err(self, text: str) -> None:
        self.flush()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def columns(self, fd: int = 1) -> int:
        """Width of the terminal on ``fd``, 80 where there is none."""
        try:
            return os.get_terminal_size(fd).columns or 80
        except OSError:
            return 80

    def terminal_size(self) -> tuple[int, int]:
        """Columns and rows of the terminal on standard error."""
        try:
            size = os.get_terminal_size(2)
        except OSError:
            return 80, 24
        return size.columns or 80, size.lines or 24

    # -- configuration

    @property
    def config_directory(self) -> str:
        chosen: str = self.options["config"] or self.environ.get("DOCKER_CONFIG", "")
        return chosen or os.path.join(self.environ.get("HOME") or os.path.expanduser("~"), ".docker")

    @property
    def config(self) -> ConfigFile:
        if self._config is None:
            from barque.client.config import BadConfig, ConfigFile

            try:
                self._config = ConfigFile(self.config_directory)
            except BadConfig as error:
                self.err(f"WARNING: Error {error}")
                self._config = ConfigFile("/nonexistent")
                self._config.directory = self.config_directory
        return self._config

    def has_config(self) -> bool:
        """Whether there is a configuration file at all: without one the hot path need not read any."""
        return self._config is not None or os.path.exists(os.path.join(self.config_directory, "config.json"))

    @property
    def context_name(self) -> str:
        """The context in use; hosts given otherwise make it ``default``."""
        if self.options["host"]:
            return "default"
        if self.options["context"]:
            return str(self.options["context"])
        if self.environ.get("BARQUE_HOST") or self.environ.get("DOCKER_HOST"):
            return "default"
        if name := self.environ.get("DOCKER_CONTEXT"):
            return name
        return (self.config.text("currentContext") if self.has_config() else "") or "default"

    # -- the engine

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            headers = {str(k): str(v) for k, v in self.config.table("HttpHeaders").items()} if self.has_config() else {}
            endpoint = self._endpoint()
            pinned = self.environ.get("DOCKER_API_VERSION", "").lstrip("v")
            self._engine = Engine(endpoint, headers, pinned, self.err if self.debug else None)
            if not self.host_was_chosen and self.may_start_engine:
                self._start_daemon_if_absent(endpoint)
        return self._engine

    def _endpoint(self) -> Endpoint:
        hosts: list[str] = self.options["host"]
        if len(hosts) > 1:
            raise CommandError("Failed to initialize: unable to resolve docker endpoint: Specify only one -H")
        if hosts and self.options["context"]:
            raise CommandError('conflicting options: either specify --host or --context, not both')
        try:
            if self.context_name != "default":
                return self._context_endpoint(self.context_name)
            text = hosts[0] if hosts else ""
            if not text and not self.options["context"]:
                text = self.environ.get("BARQUE_HOST") or self.environ.get("DOCKER_HOST") or ""
            self.host_was_chosen = bool(text)
            return parse_host(text or default_host(self.environ, os.geteuid()), self._tls())
        except BadHost as error:
            raise CommandError(f"Failed to initialize: unable to resolve docker endpoint: {error}") from None

    def _context_endpoint(self, name: str) -> Endpoint:
        from barque.client.contexts import ContextError, ContextStore

        try:
            host, tls = ContextStore(os.path.join(self.config_directory, "contexts")).host(name)
        except ContextError as error:
            raise CommandError(f"Failed to initialize: unable to resolve docker endpoint: {error}") from None
        return parse_host(host, tls)

    def _tls(self) -> TlsFiles | None:
        verify = self.options["tlsverify"] or bool(self.environ.get("DOCKER_TLS_VERIFY"))
        if not (self.options["tls"] or verify or self.environ.get("DOCKER_TLS")):
            return None
        from barque.client.tlsfiles import TlsFiles

        directory = self.environ.get("DOCKER_CERT_PATH") or self.config_directory
        paths = {}
        for name, option in (("ca", "tlscacert"), ("cert", "tlscert"), ("key", "tlskey")):
            path = self.options[option] or os.path.join(directory, f"{name}.pem")
            paths[name] = path if option in self.options.changed or os.path.exists(path) else ""
        return TlsFiles(paths["ca"], paths["cert"], paths["key"], verify=bool(verify))

    def _start_daemon_if_absent(self, endpoint: Endpoint) -> None:
        try:
            self.engine.adopt(endpoint.connect())
        except (FileNotFoundError, ConnectionRefusedError):
            if os.geteuid() == 0:
                from barque.cli.autostart import start_daemon

                start_daemon(self, endpoint)
        except OSError:
            pass  # the first request reports it

    def registry_auth(self, server: str) -> str:
        """The X-Registry-Auth value for a registry: "" where nothing is known."""
        from barque.client.config import BadConfig, encode_auth

        try:
            entry = self.config.credentials(server)
        except BadConfig as error:
            raise CommandError(str(error)) from None
        return encode_auth(entry) if entry else ""

    def default_format(self, key: str, given: str) -> str:
        """The ``--format`` given, else the one that the configuration sets for this list (``psFormat``)."""
        return given or (self.config.text(key) if self.has_config() else "")


def filters(values: dict[str, Any]) -> str | None:
    """The API's filters document, None where nothing is filtered."""
    if not values:
        return None
    from barque import fastjson

    return fastjson.dumps({key: dict.fromkeys(items, True) for key, items in values.items()})

"""``run`` and ``create``."""

from __future__ import annotations

import os
import sys

from barque.cli.command import PROGRAM, Command
from barque.cli.commands.create_flags import create_flags, detach_flag
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, Flag
from barque.client.engine import ApiError, Unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values
    from barque.client.http import Response

_PULL = ("always", "missing", "never", "")
_NOT_FOUND = ("executable file not found", "no such file or directory", "system cannot find the file specified")
_NOT_EXECUTABLE = ("permission denied", "is a directory")


def run_flags() -> list[Flag]:
    return [*create_flags(), detach_flag(),
            Flag("detach", "d", BOOL, "Run in the background and print the container's id"),
            Flag("sig-proxy", "", BOOL, "Pass signals on to the process", True)]


def with_help(message: str, verb: str) -> str:
    return f"{PROGRAM}: {message}\n\nRun '{PROGRAM} {verb} --help' for more information"


def failure(error: Exception, verb: str = "run") -> CommandError:
    """The exit code that docker derives from the engine's words: 127 not found, 126 not executable, else 125."""
    text = str(error)
    code = 125
    if any(part in text for part in _NOT_FOUND):
        code = 127
    elif any(part in text for part in _NOT_EXECUTABLE):
        code = 126
    return CommandError(with_help(text, verb), code)


def _request(app: App, values: Values, verb: str) -> dict[str, Any]:
    from barque.cli.spec.container import request

    for old, new in (("net", "network"), ("net-alias", "network-alias")):
        if old in values.changed:
            values[new] = [*values[new], *values[old]]
    image, *command = values.arguments
    try:
        if values["pull"] not in _PULL:
            raise ValueError(f"invalid pull option: '{values['pull']}': must be one of "
                             '"always", "missing" or "never"')
        body = request(values, image, command, _proxies(app))
    except ValueError as error:
        raise CommandError(with_help(str(error), verb), 125) from None
    if values["use-api-socket"]:
        _mount_socket(app, body)
    rows, columns = _console()
    body["HostConfig"]["ConsoleSize"] = [rows, columns]
    if values["mac-address"] and not app.engine.supports("1.44"):
        body["MacAddress"] = values["mac-address"]
    return body


def _console() -> tuple[int, int]:
    from barque.cli.tty import size

    return size(1) if sys.stdout.isatty() else (0, 0)


def _proxies(app: App) -> dict[str, str]:
    """Proxy variables that the configuration wants in containers."""
    if not app.has_config():
        return {}
    table = app.config.table("proxies")
    entry = table.get(app.engine.endpoint.url) or table.get("default") or {}
    result = {}
    for key, name in (("httpProxy", "HTTP_PROXY"), ("httpsProxy", "HTTPS_PROXY"), ("noProxy", "NO_PROXY"),
                      ("ftpProxy", "FTP_PROXY"), ("allProxy", "ALL_PROXY")):
        if entry.get(key):
            result[name] = result[name.lower()] = str(entry[key])
    return result


def _mount_socket(app: App, body: dict[str, Any]) -> None:
    endpoint = app.engine.endpoint
    if endpoint.scheme != "unix":
        raise CommandError("flag --use-api-socket needs an engine on a unix socket")
    if app.config.all_credentials():
        raise CommandError("flag --use-api-socket cannot pass registry logins into the container: log out first, "
                           "or mount the socket with --volume")
    mount = {"Type": "bind", "Source": endpoint.address, "Target": "/var/run/docker.sock", "BindOptions": {}}
    body["HostConfig"].setdefault("Mounts", []).append(mount)


class ApiErrorText(CommandError):
    """A failure found here that is reported like the engine's."""


class _IdFile:
    """``--cidfile``: made before the container, so that a file that exists is found out early; removed if unused."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._used = False
        if not path:
            return
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        except FileExistsError:
            raise ApiErrorText("container ID file found, make sure the other container isn't running or delete "
                               + path) from None
        except OSError as error:
            raise ApiErrorText("failed to create the container ID file: "
                               f"open {path}: {(error.strerror or '').lower()}") from None

    def write(self, container_id: str) -> None:
        if self._path:
            with open(self._path, "w", encoding="ascii") as file:
                file.write(container_id)
            self._used = True

    def close(self) -> None:
        if self._path and not self._used:
            os.unlink(self._path)


def _check_image(text: str) -> None:
    """Refuse what is no reference. Ordinary ones are told apart without the grammar, whose import costs 10 ms."""
    if not is_plain(text):
        _reference(text)


def is_plain(text: str) -> bool:
    """Whether ``text`` is [host[:port]/]path[:tag] beyond doubt; False says nothing."""
    *front, last = text.split("/")
    last, colon, tag = last.partition(":")
    if colon and not (set(tag) <= _TAG and tag[:1].isalnum() and len(tag) < 128):
        return False
    if front:
        front[0], colon, port = front[0].partition(":")
        if colon and not (set(port) <= _DIGITS and port):
            return False
    return len(text) < 200 and all(_is_component(part) for part in (*front, last))


def _is_component(text: str) -> bool:
    """Words of lower-case letters and digits with single separators between them."""
    words = text.replace(".", "-").replace("_", "-").split("-")
    return all(words) and set(text) <= _COMPONENT


_DIGITS = frozenset("0123456789")
_COMPONENT = _DIGITS | frozenset("abcdefghijklmnopqrstuvwxyz.-_")
_TAG = _COMPONENT | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _reference(text: str) -> Any:
    from barque.oci import reference

    try:
        return reference.parse(text)
    except reference.InvalidReference as error:
        raise ApiErrorText(str(error)) from None


def create(app: App, values: Values, body: dict[str, Any]) -> str:
    """Create the container, pulling the image where it is missing; gives its id."""
    engine = app.engine
    image = body["Image"]
    id_file = _IdFile(values["cidfile"])
    try:
        if set(image) != set() and not _is_id(image):
            _check_image(image)
        platform = values["platform"] or app.environ.get("DOCKER_DEFAULT_PLATFORM", "")
        query = {"name": values["name"] or None, "platform": platform or None}
        if values["pull"] == "always":
            _pull(app, image, platform, quiet=values["quiet"])
        try:
            answer = engine.post("/containers/create", query, body)
        except ApiError as error:
            if error.status != 404 or values["pull"] != "missing" or _is_id(image):
                raise
            if not values["quiet"]:
                app.err(f"Unable to find image '{_reference(image).with_default_tag().familiar}' locally")
            _pull(app, image, platform, quiet=values["quiet"])
            answer = engine.post("/containers/create", query, body)
        for warning in answer.get("Warnings") or ():
            app.err(f"WARNING: {warning}")
        container_id: str = answer["Id"]
        id_file.write(container_id)
        return container_id
    finally:
        id_file.close()


def _is_id(image: str) -> bool:
    return len(image) == 64 and set(image) <= frozenset("0123456789abcdef")


def _pull(app: App, image: str, platform: str, *, quiet: bool) -> None:
    from barque.cli.commands.pull import pull_image

    pull_image(app, image, platform, to_stderr=True, quiet=quiet)


def _create(app: App, values: Values) -> int:
    try:
        body = _request(app, values, "create")
        container_id = create(app, values, body)
    except ApiErrorText as error:
        raise CommandError(error.message) from None
    app.line(container_id)
    return 0


def _run(app: App, values: Values) -> int:
    from barque.cli.tty import detach_keys

    body = _request(app, values, "run")
    if values["detach"]:
        if values["attach"]:
            raise CommandError("conflicting options: cannot specify both --attach and --detach")
        body.update(AttachStdin=False, AttachStdout=False, AttachStderr=False, StdinOnce=False)
    elif body["AttachStdin"] and body["Tty"] and not os.isatty(0):
        raise CommandError("the input device is not a TTY")
    keys_text = values["detach-keys"] or (app.config.text("detachKeys") if app.has_config() else "")
    try:
        keys = detach_keys(keys_text)
    except ValueError as error:
        raise CommandError(str(error)) from None
    try:
        container_id = create(app, values, body)
    except ApiErrorText as error:
        raise CommandError(with_help(error.message, "run"), 125) from None
    except (ApiError, Unreachable) as error:
        raise failure(error) from None
    if not (body["AttachStdin"] or body["AttachStdout"] or body["AttachStderr"]):
        return _start_detached(app, values, container_id)
    return _attached(app, values, body, container_id, keys_text, keys)


def _start_detached(app: App, values: Values, container_id: str) -> int:
    wait = _wait_removed(app, container_id) if values["rm"] else None
    app.line(container_id)
    app.flush()
    try:
        app.engine.post(f"/containers/{container_id}/start")
    except ApiError as error:
        if wait is not None:
            wait.json()
        raise failure(error) from None
    return 0


def _wait_removed(app: App, container_id: str) -> Response:
    return app.engine.stream("POST", f"/containers/{container_id}/wait", {"condition": "removed"})


def _attached(app: App, values: Values, body: dict[str, Any], container_id: str, keys_text: str, keys: bytes) -> int:
    from barque.cli.session import attach, exit_code, session, wait_for_exit

    engine = app.engine
    stream = attach(app, container_id, stdin=body["AttachStdin"], stdout=body["AttachStdout"],
                    stderr=body["AttachStderr"], keys=keys_text)
    wait = wait_for_exit(app, container_id, removed=values["rm"])
    current = session(app, stream, container_id, tty=body["Tty"], stdin=body["AttachStdin"],
                      stdout=body["AttachStdout"], stderr=body["AttachStderr"], keys=keys,
                      proxy=values["sig-proxy"])
    try:
        try:
            engine.post(f"/containers/{container_id}/start")
        except ApiError as error:
            current.close()
            if values["rm"]:
                wait.json()  # the engine removes it although it never ran
            raise failure(error) from None
        current.resize_now()
        answer = current.run(wait)
    finally:
        current.close()
    return 0 if current.detached else exit_code(app, answer)


_USAGE = "[OPTIONS] IMAGE [COMMAND] [ARG...]"
CREATE = Command("create", _USAGE, "Create a new container", _create, flags=create_flags, least=1, interspersed=False,
                 aliases="container create, create", examples="""
barque create --name web -p 8080:80 httpd
barque start web
""")
RUN = Command("run", _USAGE, "Create and run a new container from an image", _run, flags=run_flags, least=1,
              interspersed=False, aliases="container run, run", verb_prefix=True, examples="""
barque run httpd echo "Hello"
barque run -it --rm debian bash
barque run -d -p 8080:80 --name web httpd
barque run --rm -v "$PWD:/src" -w /src python:3 python -m unittest
""")

"""``build``: send the context, show what happens, take the results."""

from __future__ import annotations

import os
import sys

from barque.cli.command import Command
from barque.cli.commands import build_request, build_results
from barque.cli.commands.build_flags import build_flags
from barque.cli.errors import CommandError
from barque.client.engine import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from barque.cli.app import App
    from barque.cli.commands.build_request import Context
    from barque.cli.commands.build_results import Target
    from barque.cli.flags import Values
    from barque.client.http import Response

_PROGRESS = ("auto", "tty", "plain", "quiet", "rawjson")
#: Exit code of a check that found something.
_FOUND = 1
#: An engine that cannot read the client's directory says so; then the files are sent.
_PRECONDITION = 412
_TRACE = "barque.build.trace"
#: What docker's engine would not understand, and ignore.
_OURS = ("attest", "cache-to", "check", "metadata-file", "on-failure", "output", "provenance", "push", "sbom", "secret",
         "ssh", "volume")


class _Result:
    """What the stream has told."""

    def __init__(self) -> None:
        self.image_id = ""
        self.found = False
        self.metadata: dict[str, Any] = {}
        self.failed_image = ""
        self.place: dict[str, Any] = {}

    def read(self, text: str) -> None:
        """The text of a quiet build: docker's engine says the id in it."""
        if text.startswith("sha256:"):
            self.image_id = text.strip()

    def take(self, value: Any) -> None:
        """An ``aux`` of docker's stream."""
        if isinstance(value, dict):
            self.image_id = str(value.get("ID") or self.image_id)
            self.found = self.found or bool(value.get("Findings"))


def _build(app: App, values: Values) -> int:
    _check(values)
    foreign = [name for name in _OURS if values[name]]
    if foreign and not _is_ours(app):
        raise CommandError(f"--{foreign[0]} needs barqued: this engine does not know it")
    targets = [build_results.parse_output(text) for text in values["output"]]
    if values["push"]:
        targets.append(build_results.Target("registry", {}))
    for text in values["cache-from"]:
        if directory := build_request.local_cache(text):
            build_results.import_cache(app, directory)
    source = build_request.context(values.arguments[0], values)
    response = _send(app, source, build_request.query(app, values, source, targets), build_request.headers(app, values))
    result = _Result()
    try:
        _show(app, response, values, targets, result)
    finally:
        response.close()
    if values["check"]:
        return _FOUND if result.found else 0
    if not result.image_id:
        raise CommandError("the engine ended the build without an image")
    if values["iidfile"]:
        build_results.write_text(values["iidfile"], result.image_id)
    if values["metadata-file"]:
        build_results.write_text(values["metadata-file"], build_results.metadata(result.metadata))
    if (values["quiet"] or values["progress"] == "quiet") and not build_results.wants_stdout(targets):
        app.line(result.image_id)
    return 0


def _check(values: Values) -> None:
    if values["progress"] not in _PROGRESS:
        raise CommandError(f"invalid progress mode {values['progress']}: it is one of {', '.join(_PROGRESS)}")
    if values["isolation"] not in ("", "default"):
        raise CommandError(f"isolation {values['isolation']} is not known on Linux")
    if values["sbom"] not in ("", "true", "false"):
        raise CommandError(f"invalid value {values['sbom']} for --sbom: the packages are listed by the engine itself")
    for text in values["cache-to"]:
        if "type=local" in text.split(",") and not _destination(text):
            raise CommandError(f"invalid cache target {text}: it is type=local,dest=DIRECTORY")


def _destination(text: str) -> str:
    return dict(part.partition("=")[::2] for part in text.split(",")).get("dest", "")


def _send(app: App, source: Context, query: dict[str, Any], headers: dict[str, str]) -> Response:
    """Let an engine of this user on this machine read the files where they are; send them to any other."""
    if source.directory and app.engine.endpoint.scheme == "unix" and os.geteuid() == 0 and _is_ours(app):
        fd = os.open(source.directory, os.O_PATH | os.O_DIRECTORY)
        try:
            info = os.fstat(fd)
            here = {**query, "directory": f"{fd}:{info.st_dev}:{info.st_ino}"}
            return app.engine.stream("POST", "/build", here, source.text or None, headers)
        except ApiError as error:
            if error.status != _PRECONDITION:
                raise
        finally:
            os.close(fd)
    return app.engine.stream("POST", "/build", query, source.body() if source.body is not None else None, headers)


def _is_ours(app: App) -> bool:
    return app.engine.ping().get("server", "").startswith("Barque/")


def _show(app: App, response: Response, values: Values, targets: list[Target], result: _Result) -> None:
    """Show the stream, and fetch what it announces."""
    from barque.cli.format.progress import Display, StreamError

    app.flush()
    mode = "quiet" if values["quiet"] else values["progress"]
    if mode == "auto":
        mode = "tty" if sys.stderr.isatty() else "plain"
    view = _view(app, mode)
    classic = Display(result.read if mode in ("quiet", "rawjson") else _stdout, app.columns() if mode == "tty" else 0)
    try:
        for message in _followed(response.documents()):
            if message.get("id") == _TRACE:
                _event(app, message["aux"], view, result, values, targets)
            elif message.get("aux") is not None:
                result.take(message["aux"])
            else:
                classic.show(message)
    except StreamError as error:
        raise CommandError(str(error)) from None
    finally:
        view.close()
        if result.place:
            bar = "-" * 20
            app.err(f"{values['file'] or 'Dockerfile'}:{result.place['Line']}\n{bar}\n{result.place['Excerpt']}\n{bar}")
        if result.failed_image:
            app.err(f"The failed step is kept: barque run --rm -it {result.failed_image.partition(':')[2][:12]} sh")


def _view(app: App, mode: str) -> Any:
    from barque.cli.format import build_progress

    if mode == "rawjson":
        return build_progress.Raw(_stderr)
    if mode == "tty":
        return build_progress.Live(build_progress.Tree(_stderr, app.terminal_size))
    return build_progress.Plain(_stderr if mode == "plain" else _quiet)


def _event(app: App, event: dict[str, Any], view: Any, result: _Result, values: Values, targets: list[Target]) -> None:
    view.take(event)
    kind, value = event.get("Kind"), event.get("Value")
    if event.get("Event") != "note" or value is None:
        return
    if kind == "failed-image":
        result.failed_image = str(value)
    elif kind == "metadata":
        result.metadata = dict(value)
    elif kind == "place":
        result.place = dict(value)
    elif kind == "output":
        if value["Output"] == "cache":
            local = [_destination(text) for text in values["cache-to"] if "type=local" in text.split(",")]
            build_results.fetch(app, value["Token"], build_results.Target("local", {"dest": local[0]}))
        else:
            build_results.fetch(app, value["Token"], targets[int(value["Output"])])


def _stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _quiet(_: str) -> None:
    pass


def _followed(messages: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A failed command's exit code becomes ours, as with docker."""
    for message in messages:
        detail = message.get("errorDetail")
        if isinstance(detail, dict) and detail.get("code"):
            raise CommandError(str(message.get("error", "")), int(detail["code"]))
        yield message


BUILD = Command("build", "[OPTIONS] PATH | URL | -", "Build an image from a Dockerfile", _build, least=1, most=1,
                flags=build_flags, aliases="image build, build, builder build", examples="""
barque build -t app .
barque build -t app -f docker/Dockerfile --build-arg VERSION=2 .
barque build --check .
barque build --output dist .
barque build -t example.org/app --push --sbom true --provenance mode=max .
barque build --secret id=token,env=TOKEN https://example.org/repo.git#main:app
""")

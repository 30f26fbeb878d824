"""``inspect`` and the inspect verbs of the groups."""

from __future__ import annotations

from barque.cli.command import Command
from barque.cli.commands.formats import inspect_format_flag
from barque.cli.commands.pull import platform_document
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, STRING, Flag
from barque.client.engine import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values

    #: From a name to (the name of the type in docker's client, the document).
    Fetch = Callable[[str], tuple[str, Any]]

def show(app: App, names: list[str], form: str, fetch: Fetch) -> int:
    """Print the objects named; failures come after what was found. A wrong template is exit code 64."""
    template = _template(form)
    found: list[tuple[str, Any]] = []
    errors: list[str] = []
    for name in names:
        try:
            found.append(fetch(name))
        except (ApiError, CommandError) as error:
            errors.append(str(error))
    if template is not None:
        _templated(app, template, found, errors)
    else:
        import json

        indent = None if form == "json" else 4
        separators = (",", ":") if form == "json" else (",", ": ")
        app.line(json.dumps([item for _, item in found], indent=indent, separators=separators, ensure_ascii=False))
    if errors:
        raise CommandError("\n".join(errors))
    return 0


def _template(form: str) -> Any:
    if form in ("", "json"):
        return None
    from barque.gotemplate.errors import TemplateError
    from barque.gotemplate.template import parse

    try:
        return parse(form)
    except TemplateError as error:
        raise CommandError(f"template parsing error: {error}", 64) from None


def _templated(app: App, template: Any, found: list[tuple[str, Any]], errors: list[str]) -> None:
    from barque.cli.format.types import typed
    from barque.gotemplate.errors import TemplateError

    shown = ""
    for kind, item in found:
        try:
            shown += template.execute(typed(item, kind), strict=True) + "\n"
        except TemplateError as error:
            errors.append(f"template parsing error: {error}")
    app.out(shown or "\n")


def _container(app: App, size: bool) -> Fetch:
    return lambda name: ("Container", app.engine.get(f"/containers/{name}/json", {"size": size or None}))


def _image(app: App, platform: str = "") -> Fetch:
    query = {"platform": platform_document(platform) if platform else None}
    return lambda name: ("Image", app.engine.get(f"/images/{name}/json", query))


def _volume(app: App) -> Fetch:
    return lambda name: ("Volume", app.engine.get(f"/volumes/{name}"))


def _network(app: App, verbose: bool = False) -> Fetch:
    query = {"verbose": verbose or None}
    return lambda name: ("Network", app.engine.get(f"/networks/{name}", query))


#: Objects of docker's that belong to swarms and to managed plugins.
_ELSEWHERE = ("config", "node", "plugin", "secret", "service", "task")


def _inspect(app: App, values: Values) -> int:
    kinds = {"container": _container(app, values["size"]), "image": _image(app), "network": _network(app),
             "volume": _volume(app)}
    kind = values["type"]
    if "type" in values.changed and not kind:
        raise CommandError('type is empty: must be one of "config", "container", "image", "network", "node", "plugin", '
                           '"secret", "service", "task", "volume"')
    if kind:
        if kind in _ELSEWHERE:
            raise CommandError(f"Barque has no objects of the type {kind}")
        if kind not in kinds:
            raise CommandError(f'unknown type: "{kind}": must be one of "config", "container", "image", "network", '
                               '"node", "plugin", "secret", "service", "task", "volume"')

    def fetch(name: str) -> tuple[str, Any]:
        for get in [kinds[kind]] if kind else kinds.values():
            try:
                found = get(name)
            except ApiError as error:
                if kind or error.status != 404:
                    raise
                continue
            if values["size"] and found[0] != "Container":
                app.err(f"WARNING: --size ignored for {found[0].lower()}")
            return found
        raise CommandError(f"Error: No such object: {name}")

    return show(app, values.arguments, values["format"], fetch)


def _size_flag() -> Flag:
    return Flag("size", "s", BOOL, "Show file sizes of containers")


INSPECT = Command("inspect", "[OPTIONS] NAME|ID [NAME|ID...]", "Return low-level information on objects", _inspect,
                  least=1,
                  flags=lambda: [inspect_format_flag(), _size_flag(),
                                 Flag("type", "", STRING, "Look only for objects of this type")],
                  examples="barque inspect --format '{{.State.Status}}' web")
CONTAINER = Command("container inspect", "[OPTIONS] CONTAINER [CONTAINER...]",
                    "Display detailed information on one or more containers",
                    lambda app, values: show(app, values.arguments, values["format"], _container(app, values["size"])),
                    least=1, flags=lambda: [inspect_format_flag(), _size_flag()],
                    examples="barque container inspect web")
IMAGE = Command("image inspect", "[OPTIONS] IMAGE [IMAGE...]", "Display detailed information on one or more images",
                lambda app, values: show(app, values.arguments, values["format"], _image(app, values["platform"])),
                least=1,
                flags=lambda: [inspect_format_flag(),
                               Flag("platform", "", STRING, "Platform of the image, where it has several")],
                examples="barque image inspect --format '{{.Size}}' httpd")
NETWORK = Command("network inspect", "[OPTIONS] NETWORK [NETWORK...]",
                  "Display detailed information on one or more networks",
                  lambda app, values: show(app, values.arguments, values["format"], _network(app, values["verbose"])),
                  least=1,
                  flags=lambda: [inspect_format_flag(), Flag("verbose", "v", BOOL, "More for diagnostics")],
                  examples="barque network inspect bridge")
VOLUME = Command("volume inspect", "[OPTIONS] VOLUME [VOLUME...]",
                 "Display detailed information on one or more volumes",
                 lambda app, values: show(app, values.arguments, values["format"], _volume(app)), least=1,
                 flags=lambda: [inspect_format_flag()],
                 examples="barque volume inspect data")

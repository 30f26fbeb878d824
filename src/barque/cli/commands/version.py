"""``version``."""

from __future__ import annotations

import os
import sys

from barque import __version__
from barque.cli.command import Command
from barque.cli.commands.formats import inspect_format_flag
from barque.cli.errors import CommandError
from barque.client.engine import API_VERSION, ApiError, Unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def client_document(app: App) -> dict[str, Any]:
    machine = os.uname().machine
    return {"Version": __version__, "ApiVersion": app.engine.version, "DefaultAPIVersion": API_VERSION,
            "PythonVersion": ".".join(str(part) for part in sys.version_info[:3]), "Os": "linux",
            "Arch": _ARCHITECTURES.get(machine, machine), "Context": app.context_name}


def _version(app: App, values: Values) -> int:
    failure: Exception | None = None
    server: Any = None
    try:
        server = app.engine.get("/version")
    except (ApiError, Unreachable) as error:
        failure = error
    document = {"Client": client_document(app), "Server": server}
    form = values["format"]
    if form == "json":
        from barque import fastjson

        app.line(fastjson.dumps(document))
    elif form:
        app.line(templated(form, document, "Version"))
    else:
        app.out(_text(document))
    if failure is not None:
        raise CommandError(str(failure))
    return 0


def templated(form: str, document: Any, type_name: str = "") -> str:
    """Raises :class:`CommandError` (64 where the template cannot be parsed)."""
    from barque.cli.format.types import typed
    from barque.gotemplate.errors import TemplateError
    from barque.gotemplate.template import parse

    try:
        template = parse(form)
    except TemplateError as error:
        raise CommandError(f"template parsing error: {error}", 64) from None
    try:
        return template.execute(typed(document, type_name), strict=True)
    except TemplateError as error:
        raise CommandError(str(error)) from None


def _field(name: str, value: object, indent: int = 1, width: int = 18) -> str:
    return f"{' ' * indent}{(name + ':').ljust(width)} {value}\n"


def _text(document: dict[str, Any]) -> str:
    client, server = document["Client"], document["Server"]
    api, newest = client["ApiVersion"], client["DefaultAPIVersion"]
    out = "Client:\n"
    out += _field("Version", client["Version"])
    out += _field("API version", api if api == newest else f"{api} (downgraded from {newest})")
    out += _field("Python version", client["PythonVersion"])
    out += _field("OS/Arch", f"{client['Os']}/{client['Arch']}")
    out += _field("Context", client["Context"])
    if server:
        out += "\n" + _server(server)
    return out


def _server(server: dict[str, Any]) -> str:
    platform = (server.get("Platform") or {}).get("Name")
    out = f"Server: {platform}\n" if platform else "Server:\n"
    for component in server.get("Components") or [_engine(server)]:
        details = component.get("Details") or {}
        out += f" {component['Name']}:\n" + _field("Version", component["Version"], 2, 17)
        if component["Name"] != "Engine":
            out += _field("GitCommit", details.get("GitCommit", ""), 2, 17)
            continue
        minimum = details.get("MinAPIVersion")
        api = details.get("ApiVersion", "")
        out += _field("API version", f"{api} (minimum version {minimum})" if minimum else api, 2, 17)
        for key, title in (("GoVersion", "Go version"), ("PythonVersion", "Python version"),
                           ("GitCommit", "Git commit"), ("BuildTime", "Built")):
            if details.get(key):
                out += _field(title, details[key], 2, 17)
        out += _field("OS/Arch", f"{details.get('Os', '')}/{details.get('Arch', '')}", 2, 17)
        out += _field("Experimental", details.get("Experimental", "false"), 2, 17)
    return out


def _engine(server: dict[str, Any]) -> dict[str, Any]:
    """Engines before API 1.35 have no component list."""
    return {"Name": "Engine", "Version": server.get("Version", ""), "Details": server}


VERSION = Command("version", "[OPTIONS]", "Show the version information", _version, most=0,
                  flags=lambda: [inspect_format_flag()], examples="barque version --format '{{.Server.Version}}'")

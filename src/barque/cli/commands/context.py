"""``context``: named engines."""

from __future__ import annotations

import os

from barque.cli.app import default_host
from barque.cli.command import Command
from barque.cli.commands.formats import choose, format_flag, inspect_format_flag, write_rows
from barque.cli.commands.inspect import show
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, MAP, STRING, Flag, Kind
from barque.cli.format.table import Row
from barque.client.contexts import DEFAULT, TLS_NAMES, ContextError, ContextStore, check_name, read_file
from barque.client.transport import BadHost, parse_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values

_TABLE = '{{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}'
_HEADERS = {"Name": "NAME", "Description": "DESCRIPTION", "DockerEndpoint": "DOCKER ENDPOINT", "Error": "ERROR",
            "Current": ""}


def store_of(app: App) -> ContextStore:
    return ContextStore(os.path.join(app.config_directory, "contexts"))


def _environment_host(app: App) -> str:
    hosts = app.options["host"]
    given = (hosts[0] if hosts else "") or app.environ.get("BARQUE_HOST") or app.environ.get("DOCKER_HOST")
    return given or default_host(app.environ, os.geteuid())


def describe(app: App, store: ContextStore, name: str) -> dict[str, Any]:
    if name == DEFAULT:
        return {"Name": DEFAULT, "Metadata": {},
                "Endpoints": {"docker": {"Host": _environment_host(app), "SkipTLSVerify": False}}, "TLSMaterial": {},
                "Storage": {"MetadataPath": "<IN MEMORY>", "TLSPath": "<IN MEMORY>"}}
    document = store.load(name)
    files = store.tls_files(name)
    return {**document, "TLSMaterial": {"docker": files} if files else {},
            "Storage": {"MetadataPath": store.metadata_path(name), "TLSPath": store.tls_path(name)}}


def _ls(app: App, values: Values) -> int:
    store, current = store_of(app), app.context_name
    rows = []
    for name in sorted({DEFAULT, *store.names()}):
        document = describe(app, store, name)
        description = "Current DOCKER_HOST based configuration" if name == DEFAULT else (
            document.get("Metadata", {}).get("Description", ""))
        endpoint = document.get("Endpoints", {}).get("docker", {})
        rows.append(Row({"Name": name, "Current": name == current, "Description": description, "Error": "",
                         "DockerEndpoint": endpoint.get("Host", "")}))
    if current != DEFAULT and current not in store.names():
        rows.append(Row({"Name": current, "Current": True, "Description": "", "DockerEndpoint": "",
                         "Error": f'context "{current}": context not found'}))
    write_rows(app, rows, choose(values["format"], quiet=values["quiet"], quiet_form="{{.Name}}"), _TABLE, _HEADERS,
               "*formatter.clientContextContext")
    _warn_of_host(app, "overrides the active context. To use a context, either set the global --context flag, or unset "
                       "{} environment variable.")
    return 0


def _warn_of_host(app: App, text: str) -> None:
    name = next((name for name in ("BARQUE_HOST", "DOCKER_HOST") if app.environ.get(name)), "")
    if name:
        app.err(f"Warning: {name} environment variable " + text.format(name))


def _show(app: App, _: Values) -> int:
    app.line(app.context_name)
    return 0


def _use(app: App, values: Values) -> int:
    name = values.arguments[0]
    try:
        if name != DEFAULT:
            store_of(app).load(name)
    except ContextError as error:
        raise CommandError(str(error)) from None
    if name == DEFAULT:
        app.config.document.pop("currentContext", None)
    else:
        app.config.document["currentContext"] = name
    app.config.save()
    app.line(name)
    app.err(f'Current context is now "{name}"')
    if name != DEFAULT:
        _warn_of_host(app,
                      f'overrides the active context. To use "{name}", either set the global --context flag, or unset '
                           "{} environment variable.")
    return 0


def _create(app: App, values: Values) -> int:
    name, store = values.arguments[0], store_of(app)
    try:
        check_name(name)
        if name in store.names():
            raise ContextError(f'context "{name}" already exists')
        if values["from"]:
            document, tls = _copy(app, store, values["from"])
        else:
            document, tls = _endpoint(app, store, values["docker"])
        metadata = dict(document.get("Metadata") or {})
        if values["description"]:
            metadata["Description"] = values["description"]
        store.save({"Name": name, "Metadata": metadata, "Endpoints": document["Endpoints"]}, tls)
    except (ContextError, BadHost) as error:
        raise CommandError(str(error)) from None
    app.line(name)
    app.err(f'Successfully created context "{name}"')
    return 0


def _copy(app: App, store: ContextStore, source: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    return describe(app, store, source), store.tls_contents(source) if source != DEFAULT else {}


def _endpoint(app: App, store: ContextStore, options: dict[str, str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    unknown = set(options) - {"host", "ca", "cert", "key", "skip-tls-verify", "from"}
    if unknown:
        raise ContextError(f"unable to create docker endpoint config: unrecognized config key: {sorted(unknown)[0]}")
    if source := options.get("from"):
        document, tls = _copy(app, store, source)
        return {"Metadata": {}, "Endpoints": document["Endpoints"]}, tls
    if not options.get("host"):
        raise ContextError("docker endpoint configuration is required")
    parse_host(options["host"])
    skip = options.get("skip-tls-verify", "false").lower() in ("1", "t", "true")
    document = {"Metadata": {}, "Endpoints": {"docker": {"Host": options["host"], "SkipTLSVerify": skip}}}
    return document, {name: read_file(options[key]) for key, name in TLS_NAMES.items() if options.get(key)}


def _update(app: App, values: Values) -> int:
    name, store = values.arguments[0], store_of(app)
    try:
        check_name(name)
        document, tls = store.load(name), store.tls_contents(name)
        if values["description"]:
            document.setdefault("Metadata", {})["Description"] = values["description"]
        if values["docker"]:
            changed, tls = _endpoint(app, store, values["docker"])
            document["Endpoints"] = changed["Endpoints"]
        store.save(document, tls)
    except (ContextError, BadHost) as error:
        raise CommandError(str(error)) from None
    app.line(name)
    app.err(f'Successfully updated context "{name}"')
    return 0


def _rm(app: App, values: Values) -> int:
    store, errors = store_of(app), []
    for name in values.arguments:
        try:
            if name == DEFAULT:
                raise ContextError('context "default" cannot be removed')
            if name == app.context_name:
                if not values["force"]:
                    raise ContextError(f'context "{name}" is in use, set -f flag to force remove')
                if app.config.document.pop("currentContext", None):
                    app.config.save()
            store.remove(name)
            app.line(name)
        except ContextError as error:
            if not (values["force"] and "does not exist" in str(error)):
                errors.append(str(error))
    if errors:
        raise CommandError("\n".join(errors))
    return 0


def _inspect(app: App, values: Values) -> int:
    store = store_of(app)

    def fetch(name: str) -> tuple[str, Any]:
        try:
            return "Context", describe(app, store, name)
        except ContextError as error:
            raise CommandError(str(error)) from None

    return show(app, values.arguments or [app.context_name], values["format"], fetch)


def _csv_map(current: Any, text: str) -> dict[str, str]:
    from barque.cli.spec.checks import csv_fields

    result = dict(current)
    for field in csv_fields(text):
        key, equals, value = field.partition("=")
        if not equals:
            raise ValueError(f"{field} must be formatted as key=value")
        result[key] = value
    return result


_ENDPOINT = Kind("stringToString", MAP.zero, _csv_map, "[]")


def _endpoint_flag() -> Flag:
    return Flag("docker", "", _ENDPOINT, "Where the engine is: host, ca, cert, key, skip-tls-verify, or from=CONTEXT")


CREATE = Command("context create", "[OPTIONS] CONTEXT", "Create a context", _create, least=1, most=1, flags=lambda: [
    Flag("description", "", STRING, "Description of the context"),
    _endpoint_flag(),
    Flag("from", "", STRING, "Copy another context"),
], examples="barque context create far --docker host=ssh://me@far.example")
LS = Command("context ls", "[OPTIONS]", "List contexts", _ls, most=0, flags=lambda: [
    format_flag(), Flag("quiet", "q", BOOL, "Only show context names"),
], aliases="context ls, context list", examples="barque context ls")
SHOW = Command("context show", "", "Print the name of the current context", _show, most=0,
               examples="barque context show")
USE = Command("context use", "CONTEXT", "Set the current context", _use, least=1, most=1,
              examples="barque context use far")
RM = Command("context rm", "CONTEXT [CONTEXT...]", "Remove one or more contexts", _rm, least=1,
             flags=lambda: [Flag("force", "f", BOOL, "Remove a context that is in use")],
             aliases="context rm, context remove", examples="barque context rm far")
INSPECT = Command("context inspect", "[OPTIONS] [CONTEXT] [CONTEXT...]",
                  "Display detailed information on one or more contexts",
                  _inspect, flags=lambda: [inspect_format_flag()], examples="barque context inspect far")
UPDATE = Command("context update", "[OPTIONS] CONTEXT", "Update a context", _update, least=1, most=1, flags=lambda: [
    Flag("description", "", STRING, "Description of the context"), _endpoint_flag(),
], examples="barque context update far --description 'The big machine'")

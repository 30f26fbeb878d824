"""``events``."""

from __future__ import annotations

from barque.cli.app import filters
from barque.cli.command import Command
from barque.cli.errors import CommandError
from barque.cli.flags import FILTER, STRING, Flag
from barque.cli.format.units import timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values

NANOSECONDS = 1_000_000_000


def _moment(event: dict[str, Any]) -> str:
    """Local time with nine fractional digits, as Go's RFC3339NanoFixed."""
    import time

    nanoseconds = event.get("timeNano") or event.get("time", 0) * NANOSECONDS
    seconds, fraction = divmod(nanoseconds, NANOSECONDS)
    local = time.localtime(seconds)
    zone = time.strftime("%z", local)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{fraction:09d}" + (
        "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}")


def _line(event: dict[str, Any]) -> str:
    actor = event.get("Actor") or {}
    attributes = ", ".join(f"{key}={value}" for key, value in sorted((actor.get("Attributes") or {}).items()))
    text = f"{_moment(event)} {event.get('Type', '')} {event.get('Action', '')} {actor.get('ID', '')}"
    return f"{text} ({attributes})" if attributes else text


def _events(app: App, values: Values) -> int:
    query: dict[str, object] = {"filters": filters(values["filter"])}
    try:
        for name in ("since", "until"):
            query[name] = timestamp(values[name]) if values[name] else None
    except ValueError as error:
        raise CommandError(str(error)) from None
    render = _renderer(values["format"])
    response = app.engine.stream("GET", "/events", query)
    try:
        for event in response.documents():
            app.line(render(event))
            app.flush()
    finally:
        response.close()
    return 0


def _renderer(form: str) -> Any:
    if form in ("", "json"):
        from barque import fastjson

        return fastjson.dumps if form else _line
    from barque.gotemplate.errors import TemplateError
    from barque.gotemplate.template import parse

    try:
        template = parse(form)
    except TemplateError as error:
        raise CommandError(f"Error parsing format: template parsing error: {error}", 64) from None

    def render(event: dict[str, Any]) -> str:
        names = {"ID": event.get("id", ""), "Status": event.get("status", ""), "From": event.get("from", ""),
                 "Time": event.get("time", 0), "TimeNano": event.get("timeNano", 0), "Scope": event.get("scope", "")}
        try:
            return template.execute({**names, **event}, strict=True)
        except TemplateError as error:
            raise CommandError(str(error)) from None

    return render


EVENTS = Command("events", "[OPTIONS]", "Get real time events from the server", _events, most=0, flags=lambda: [
    Flag("filter", "f", FILTER, "Show only what meets these conditions"),
    Flag("format", "", STRING, "Format of the output: 'json', or a Go template"),
    Flag("since", "", STRING, "Show what happened since a time"),
    Flag("until", "", STRING, "Stop at a time"),
], aliases="system events, events", examples="barque events --since 10m --filter type=container")

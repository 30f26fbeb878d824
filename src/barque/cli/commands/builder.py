"""``builder history`` and ``builder cache``: the builds of the past, and the directories that RUN steps share."""

from __future__ import annotations

import time

from barque.cli.command import Command
from barque.cli.commands.each import confirm
from barque.cli.commands.formats import format_flag, write_rows
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, BYTES, STRING, Flag
from barque.cli.format.table import Row
from barque.cli.format.units import ago, human_size, parse_rfc3339, short_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values

    Verb = Callable[[App, Values, list[str]], int]

_NANO = 1_000_000_000
_BUILDS = "{{.ID}}\t{{.Name}}\t{{.Status}}\t{{.Created}}\t{{.Duration}}\t{{.Steps}}"
_BUILD_HEADERS = {"ID": "BUILD ID", "Name": "NAME", "Status": "STATUS", "Created": "CREATED AT", "Duration": "DURATION",
                  "Steps": "CACHED STEPS"}
_MOUNTS = "{{.ID}}\t{{.Name}}\t{{.Size}}\t{{.Created}}\t{{.LastUsed}}\t{{.Uses}}\t{{.InUse}}"
_MOUNT_HEADERS = {"ID": "CACHE ID", "Name": "NAME", "Size": "SIZE", "Created": "CREATED", "LastUsed": "LAST USED",
                  "Uses": "USAGE", "InUse": "IN USE"}
_MOUNT = "exec.cachemount"
_PREFIX = "cache mount "


def _chosen(app: App, values: Values, verbs: dict[str, tuple[Verb, int, int]]) -> int:
    """Run the verb that the first argument names, with the least and the greatest number of its arguments."""
    name, *arguments = values.arguments
    if name not in verbs:
        raise CommandError(f"unknown verb {name}: it is one of {', '.join(verbs)}")
    verb, least, most = verbs[name]
    if not least <= len(arguments) <= most:
        raise CommandError(f"{name} takes {least if least == most else f'{least} to {most}'} arguments")
    return verb(app, values, arguments)


def _path(ref: str, what: str) -> str:
    from barque.client.http import quote

    return f"/build/history/{quote(ref or 'latest')}/{what}"


def _duration(item: dict[str, Any]) -> str:
    end = item["Completed"] or time.time_ns()
    return f"{(end - item['Started']) / _NANO:.1f}s"


def _builds(app: App, values: Values, _: list[str]) -> int:
    items = app.engine.get("/build/history")
    if values["quiet"]:
        for item in items:
            app.line(item["ID"])
        return 0
    rows = [Row({"ID": item["ID"], "Name": ", ".join(item["Tags"]) or item["Dockerfile"], "Status": item["Status"],
                 "Created": ago(item["Started"] / _NANO), "Duration": _duration(item),
                 "Steps": f"{item['Cached']}/{item['Total']}"}) for item in items]
    write_rows(app, rows, values["format"], _BUILDS, _BUILD_HEADERS, "*builder.buildContext")
    return 0


def _inspect(app: App, values: Values, arguments: list[str]) -> int:
    item = app.engine.get(_path("".join(arguments), "json"))
    if values["format"] == "json":
        import json

        app.line(json.dumps(item, indent=4))
        return 0
    if values["format"]:
        raise CommandError("inspect has the format json, or none")
    for title, text in (("Build", item["ID"]), ("Status", item["Status"]), ("Error", item["Error"]),
                        ("Name", ", ".join(item["Tags"])), ("Image", item["ImageID"]), ("Digest", item["Digest"]),
                        ("Dockerfile", item["Dockerfile"]), ("Context", item["Context"]), ("Target", item["Target"]),
                        ("Platform", item["Platform"]), ("Started", ago(item["Started"] / _NANO)),
                        ("Duration", _duration(item))):
        if text:
            app.line(f"{title + ':':12}{text}")
    for name, value in sorted(item["Arguments"].items()):
        app.line(f"{'Argument:':12}{name}={value}")
    app.line("Steps:")
    for step in item["Steps"]:
        _step(app, step)
    return 0


def _step(app: App, step: dict[str, Any]) -> None:
    took = f"{((step['Completed'] or time.time_ns()) - step['Started']) / _NANO:.1f}s"
    note = "cached" if step["Cached"] else "; ".join(filter(None, [
        took, human_size(step["Size"]) if step["Size"] else "", step["Why"], step["Error"]]))
    stage = f"[{step['Stage']}] " if step["Stage"] else ""
    app.line(f"  #{step['Number']} {stage}{step['Text']} ({note})")


def _logs(app: App, _: Values, arguments: list[str]) -> int:
    for number, _stream, text in app.engine.get(_path("".join(arguments), "logs")):
        app.out("".join(f"#{number} {line}\n" for line in text.splitlines()))
    return 0


def _forget(app: App, _: Values, arguments: list[str]) -> int:
    for ref in arguments:
        app.engine.delete(_path(ref, "").rstrip("/"))
        app.line(ref)
    return 0


def _mounts(app: App, values: Values, _: list[str]) -> int:
    items = [item for item in app.engine.get("/system/df", {"type": "build-cache"})["BuildCache"] or []
             if item["Type"] == _MOUNT]
    if values["quiet"]:
        for item in items:
            app.line(short_id(item["ID"]))
        return 0
    rows = [Row({"ID": short_id(item["ID"]), "Name": item["Description"].removeprefix(_PREFIX),
                 "Size": human_size(item["Size"]), "Created": ago(parse_rfc3339(item["CreatedAt"])),
                 "LastUsed": ago(parse_rfc3339(item["LastUsedAt"])), "Uses": str(item["UsageCount"]),
                 "InUse": str(bool(item["InUse"])).lower()}) for item in items]
    write_rows(app, rows, values["format"], _MOUNTS, _MOUNT_HEADERS, "*builder.cacheContext")
    return 0


def _archive(name: str) -> str:
    from barque.client.http import quote

    return f"/build/cache/mounts/{quote(name)}/archive"


def _export(app: App, values: Values, arguments: list[str]) -> int:
    from barque.cli.commands.export import check_output, write_archive

    check_output(values["output"], "export build cache")
    response = app.engine.stream("GET", _archive(arguments[0]))
    app.flush()
    write_archive(response, values["output"])
    return 0


def _import(app: App, _: Values, arguments: list[str]) -> int:
    import os

    from barque.cli.commands.load import chunks

    name, *files = arguments
    try:
        fd = os.open(files[0], os.O_RDONLY) if files and files[0] != "-" else 0
    except OSError as error:
        raise CommandError(f"open {files[0]}: {(error.strerror or '').lower()}") from None
    app.engine.request("PUT", _archive(name), None, iter(chunks(fd)), {"Content-Type": "application/x-tar"})
    return 0


def _prune(app: App, values: Values, _: list[str]) -> int:
    limit = values["max-size"]
    if not values["force"]:
        confirm(app, "WARNING! This will remove all build cache mounts that are not in use." if not limit else
                f"WARNING! This will remove build cache mounts until they have no more than {human_size(limit)}.")
    answer = app.engine.post("/build/prune", {"mounts": "1", "keep-storage": limit or None})
    for key in answer["CachesDeleted"] or []:
        app.line(short_id(key))
    app.line(f"Total reclaimed space: {human_size(answer['SpaceReclaimed'])}")
    return 0


def _quiet() -> Flag:
    return Flag("quiet", "q", BOOL, "Print nothing but IDs")


HISTORY = Command(
    "builder history", "ls | inspect [BUILD] | logs [BUILD] | rm BUILD...", "Look at the builds of the past",
    lambda app, values: _chosen(app, values, {"ls": (_builds, 0, 0), "inspect": (_inspect, 0, 1), "logs": (_logs, 0, 1),
                                              "rm": (_forget, 1, 1000)}), least=1,
    flags=lambda: [format_flag(), _quiet()], examples="""
barque builder history ls
barque builder history inspect
barque builder history logs ^1
""")
CACHE = Command(
    "builder cache", "ls | export NAME | import NAME [FILE] | prune", "Manage the cache mounts of RUN steps",
    lambda app, values: _chosen(app, values, {"ls": (_mounts, 0, 0), "export": (_export, 1, 1),
                                              "import": (_import, 1, 2), "prune": (_prune, 0, 0)}), least=1,
    flags=lambda: [format_flag(), _quiet(), Flag("force", "f", BOOL, "Do not ask"),
                   Flag("max-size", "", BYTES, "Remove the mounts used longest ago until no more than this is left"),
                   Flag("output", "o", STRING, "Write to a file, instead of standard output")], examples="""
barque builder cache ls
barque builder cache export -o pip.tar /root/.cache/pip
barque builder cache import /root/.cache/pip pip.tar
barque builder cache prune --max-size 5g
""")

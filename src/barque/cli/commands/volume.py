"""``volume create``, ``ls``, ``rm``."""

from __future__ import annotations

from barque.cli.app import filters
from barque.cli.command import Command
from barque.cli.commands.each import each
from barque.cli.commands.formats import choose, format_flag, write_rows
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, BYTES, FILTER, LIST, MAP, STRING, Flag
from barque.cli.format.table import Row, label_getter
from barque.cli.format.units import human_size, natural_key
from barque.cli.spec import checks
from barque.client.engine import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values

TYPE = "*formatter.volumeContext"
HEADERS = {"Name": "VOLUME NAME", "Driver": "DRIVER", "Scope": "SCOPE", "Mountpoint": "MOUNTPOINT", "Labels": "LABELS",
           "Links": "LINKS", "Size": "SIZE", "Availability": "AVAILABILITY", "Group": "GROUP", "Status": "STATUS"}
_CLUSTER = ("availability", "group", "limit-bytes", "required-bytes", "scope", "secret", "sharing",
            "topology-preferred", "topology-required", "type")


def volume_row(item: dict[str, Any]) -> Row:
    labels = item.get("Labels") or {}
    usage = item.get("UsageData") or {}
    return Row({
        "Name": item["Name"], "Driver": item["Driver"], "Scope": item.get("Scope", ""),
        "Mountpoint": item.get("Mountpoint", ""), "Label": label_getter(labels),
        "Labels": ",".join(sorted(f"{key}={value}" for key, value in labels.items())),
        "Links": str(usage["RefCount"]) if usage else "N/A", "Size": human_size(usage["Size"]) if usage else "N/A",
        "Availability": "N/A", "Group": "N/A", "Status": "N/A",
    }, TYPE)


def _ls(app: App, values: Values) -> int:
    if values["cluster"]:
        raise CommandError("--cluster is not available: there are no cluster volumes")
    answer = app.engine.get("/volumes", {"filters": filters(values["filter"])})
    form = choose(app.default_format("volumesFormat", values["format"]), quiet=values["quiet"], quiet_form="{{.Name}}")
    items = sorted(answer.get("Volumes") or [], key=lambda item: natural_key(item["Name"]))
    write_rows(app, [volume_row(item) for item in items], form, "{{.Driver}}\t{{.Name}}", HEADERS, TYPE)
    return 0


def _create(app: App, values: Values) -> int:
    for name in _CLUSTER:
        if name in values.changed:
            raise CommandError(f"--{name} is not available: there are no cluster volumes")
    name = values["name"]
    if values.arguments:
        if name:
            raise CommandError("conflicting options: cannot specify a volume-name through both --name "
                               "and as a positional arg")
        name = values.arguments[0]
    body = {"Name": name, "Driver": values["driver"], "DriverOpts": values["opt"],
            "Labels": dict(item.partition("=")[::2] for item in values["label"])}
    app.line(app.engine.post("/volumes/create", None, body)["Name"])
    return 0


def _update(app: App, values: Values) -> int:
    name = values.arguments[0]
    item = app.engine.get(f"/volumes/{name}")
    cluster = item.get("ClusterVolume")
    if cluster is None:
        raise CommandError("Can only update cluster volumes")
    if "availability" in values.changed:
        spec = {**(cluster.get("Spec") or {}), "Availability": values["availability"]}
        version = (cluster.get("Version") or {}).get("Index")
        app.engine.request("PUT", f"/volumes/{name}", {"version": version}, {"Spec": spec})
    return 0


def _rm(app: App, values: Values) -> int:
    def remove(name: str) -> None:
        try:
            app.engine.delete(f"/volumes/{name}", {"force": values["force"] or None})
        except ApiError as error:
            if not (values["force"] and error.status == 404):
                raise

    return each(app, values.arguments, remove)


def _create_flags() -> list[Flag]:
    return [
        Flag("availability", "", STRING, "Availability of a cluster volume", "active"),
        Flag("driver", "d", STRING, "Driver of the volume", "local"),
        Flag("group", "", STRING, "Group of a cluster volume"),
        Flag("label", "", LIST, "Set metadata on the volume", check=checks.label),
        Flag("limit-bytes", "", BYTES, "Greatest size of a cluster volume"),
        Flag("name", "", STRING, "Name of the volume", hidden=True),
        Flag("opt", "o", MAP, "Options of the driver"),
        Flag("required-bytes", "", BYTES, "Least size of a cluster volume"),
        Flag("scope", "", STRING, "Scope of a cluster volume", "single"),
        Flag("secret", "", MAP, "Secrets of a cluster volume"),
        Flag("sharing", "", STRING, "Sharing of a cluster volume", "none"),
        Flag("topology-preferred", "", LIST, "Where a cluster volume should be"),
        Flag("topology-required", "", LIST, "Where a cluster volume must be"),
        Flag("type", "", STRING, "Access type of a cluster volume", "block"),
    ]


LS = Command("volume ls", "[OPTIONS]", "List volumes", _ls, most=0, flags=lambda: [
    Flag("cluster", "", BOOL, "Show only cluster volumes"),
    Flag("filter", "f", FILTER, "Show only what meets these conditions"),
    format_flag(),
    Flag("quiet", "q", BOOL, "Only show volume names"),
], aliases="volume ls, volume list", examples="barque volume ls --filter dangling=true")
CREATE = Command("volume create", "[OPTIONS] [VOLUME]", "Create a volume", _create, most=1, flags=_create_flags,
                 examples="barque volume create data")
RM = Command("volume rm", "[OPTIONS] VOLUME [VOLUME...]", "Remove one or more volumes", _rm, least=1,
             flags=lambda: [Flag("force", "f", BOOL, "No error where there is no such volume")],
             aliases="volume rm, volume remove", examples="barque volume rm data")
UPDATE = Command("volume update", "[OPTIONS] VOLUME", "Update a volume (cluster volumes only)", _update, least=1,
                 most=1,
                 flags=lambda: [Flag("availability", "", STRING, "Availability (active, pause, drain)", "active")],
                 examples="barque volume update --availability drain shared")

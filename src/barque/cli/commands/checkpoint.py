"""``checkpoint``: the state of a running container on disk, on engines that have that (an experiment of docker's)."""

from __future__ import annotations

from barque.cli.command import PROGRAM, Command
from barque.cli.commands.formats import write_rows
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, STRING, Flag
from barque.cli.format.table import Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values


def _require(app: App, path: str) -> None:
    if app.engine.ping().get("docker-experimental") != "true":
        raise CommandError(f"{PROGRAM} {path} is only supported on an engine that can keep checkpoints "
                           "(docker's with experimental features); this one cannot")


def _create(app: App, values: Values) -> int:
    _require(app, "checkpoint create")
    container, name = values.arguments
    body = {"CheckpointID": name, "CheckpointDir": values["checkpoint-dir"], "Exit": not values["leave-running"]}
    app.engine.post(f"/containers/{container}/checkpoints", None, body)
    app.line(name)
    return 0


def _ls(app: App, values: Values) -> int:
    _require(app, "checkpoint ls")
    items = app.engine.get(f"/containers/{values.arguments[0]}/checkpoints", {"dir": values["checkpoint-dir"] or None})
    write_rows(app, [Row({"Name": item["Name"]}) for item in items or []], "", "{{.Name}}",
               {"Name": "CHECKPOINT NAME"}, "*formatter.checkpointContext")
    return 0


def _rm(app: App, values: Values) -> int:
    _require(app, "checkpoint rm")
    container, name = values.arguments
    app.engine.delete(f"/containers/{container}/checkpoints/{name}", {"dir": values["checkpoint-dir"] or None})
    return 0


def _directory() -> Flag:
    return Flag("checkpoint-dir", "", STRING, "Directory for checkpoints, instead of the engine's own")


CREATE = Command("checkpoint create", "[OPTIONS] CONTAINER CHECKPOINT", "Create a checkpoint of a running container",
                 _create, least=2, most=2,
                 flags=lambda: [_directory(), Flag("leave-running", "", BOOL, "Leave the container running")],
                 examples="barque checkpoint create web before-upgrade")
LS = Command("checkpoint ls", "[OPTIONS] CONTAINER", "List the checkpoints of a container", _ls, least=1, most=1,
             flags=lambda: [_directory()], aliases="checkpoint ls, checkpoint list",
             examples="barque checkpoint ls web")
RM = Command("checkpoint rm", "[OPTIONS] CONTAINER CHECKPOINT", "Remove a checkpoint", _rm, least=2, most=2,
             flags=lambda: [_directory()], aliases="checkpoint rm, checkpoint remove",
             examples="barque checkpoint rm web before-upgrade")

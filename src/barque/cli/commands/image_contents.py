"""``image layers``, ``image diff`` and ``image flatten``: beyond docker."""

from __future__ import annotations

from barque.cli.command import Command
from barque.cli.commands.pull import parse_reference, platform_document
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, INT, STRING, Flag
from barque.cli.format.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values

_SIGNS = {"added": "+", "replaced": "~", "deleted": "-"}


def _print_layer(app: App, number: int, layer: dict[str, Any]) -> None:
    counts = ", ".join(f"{word} {layer[key]['Files']} ({human_size(layer[key]['Bytes'], 3)})"
                       for key, word in (("Added", "adds"), ("Replaced", "replaces"), ("Deleted", "deletes"))
                       if layer[key]["Files"])
    app.line(f"{number}  {layer['DiffId'].partition(':')[2][:12]}  {human_size(layer['Size'], 3)}, wastes "
             f"{human_size(layer['Wasted'], 3)}: {counts or 'changes nothing'}")
    if layer["CreatedBy"]:
        app.line(f"   {' '.join(layer['CreatedBy'].split())[:100]}")
    for change in layer["Largest"]:
        app.line(f"   {_SIGNS[change['Kind']]} {human_size(change['Size'], 3):>9}  {change['Path']}")


def _layers(app: App, values: Values) -> int:
    platform = platform_document(values["platform"]) if values["platform"] else None
    query = {"files": values["files"], "platform": platform}
    layers = app.engine.get(f"/images/{values.arguments[0]}/layers", query)
    if values["json"]:
        import json

        app.line(json.dumps(layers, indent=4))
        return 0
    for number, layer in enumerate(layers):
        _print_layer(app, number, layer)
    total, wasted = sum(layer["Size"] for layer in layers), sum(layer["Wasted"] for layer in layers)
    share = f" ({wasted * 100 // total}%)" if total else ""
    app.line(f"{len(layers)} layers, {human_size(total, 3)}, of which nobody sees {human_size(wasted, 3)}{share}")
    return 0


def _diff(app: App, values: Values) -> int:
    one, other = values.arguments
    items = app.engine.get(f"/images/{one}/diff", {"to": other})
    if values["json"]:
        import json

        app.line(json.dumps(items, indent=4))
        return 0
    for item in items:
        what = f"  ({item['What']})" if item["What"] else ""
        app.line(f"{item['Kind']} {item['Path']}{what}")
    return 0


def _flatten(app: App, values: Values) -> int:
    image, *target = values.arguments
    name = None
    if target:
        reference = parse_reference(target[0])
        if reference.digest:
            raise CommandError("refusing to create a tag with a digest reference")
        name = str(reference.with_default_tag())
    platform = platform_document(values["platform"]) if values["platform"] else None
    app.line(app.engine.post(f"/images/{image}/flatten", {"name": name, "platform": platform})["Id"])
    return 0


def _platform() -> Flag:
    return Flag("platform", "", STRING, "Platform of the image, where it has several")


LAYERS = Command("image layers", "[OPTIONS] IMAGE", "Show what each layer adds, replaces, deletes and wastes", _layers,
                 least=1, most=1, flags=lambda: [
                     Flag("files", "n", INT, "Name so many of the largest changes of each layer", 3),
                     Flag("json", "", BOOL, "Print all as JSON"), _platform(),
                 ], examples="barque image layers --files 10 httpd")
DIFF = Command("image diff", "[OPTIONS] IMAGE OTHER",
               "Show what another image has (A), lacks (D) or has otherwise (C)", _diff, least=2, most=2,
               flags=lambda: [Flag("json", "", BOOL, "Print all as JSON, with sizes")],
               examples="barque image diff httpd:2.4.58 httpd:2.4.59")
FLATTEN = Command("image flatten", "[OPTIONS] IMAGE [NAME[:TAG]]", "Make an image with all layers in one", _flatten,
                  least=1, most=2, flags=lambda: [_platform()], examples="barque image flatten httpd httpd:flat")

"""``port``."""

from __future__ import annotations

from barque.cli.command import Command
from barque.cli.errors import CommandError
from barque.cli.format.units import natural_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values


def _place(binding: dict[str, str]) -> str:
    address, port = binding.get("HostIp", ""), binding.get("HostPort", "")
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _port(app: App, values: Values) -> int:
    container = values.arguments[0]
    details = app.engine.get(f"/containers/{container}/json")
    mapped = details["NetworkSettings"].get("Ports") or {}
    lines: list[str] = []
    if len(values.arguments) > 1:
        port, slash, protocol = values.arguments[1].partition("/")
        if not port.isdigit():
            raise CommandError(f"Error: invalid port ({port}): invalid syntax")
        key = f"{port}/{protocol if slash else 'tcp'}"
        bindings = mapped.get(key)
        if not bindings:
            raise CommandError(f"Error: No public port '{values.arguments[1]}' published for {container}")
        lines = [_place(binding) for binding in bindings]
    else:
        lines = [f"{key} -> {_place(binding)}" for key, bindings in mapped.items() for binding in bindings or ()]
    if lines:
        app.line("\n".join(sorted(lines, key=natural_key)))
    return 0


PORT = Command("port", "CONTAINER [PRIVATE_PORT[/PROTO]]", "List port mappings or a specific mapping for the container",
               _port, least=1, most=2, aliases="container port, port", examples="barque port web 80/tcp")

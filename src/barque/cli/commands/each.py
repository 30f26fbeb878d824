"""One operation over several objects: names of what worked on stdout, failures together at the end."""

from __future__ import annotations

from barque.cli.errors import CommandError
from barque.client.engine import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from barque.cli.app import App


def each(app: App, names: list[str], operation: Callable[[str], object]) -> int:
    """Run ``operation`` per name; raises :class:`CommandError` with every failure, after all were tried."""
    errors = []
    for name in names:
        try:
            operation(name)
        except ApiError as error:
            errors.append(str(error))
        else:
            app.line(name)
            app.flush()
    if errors:
        raise CommandError("\n".join(errors))
    return 0


def confirm(app: App, question: str) -> None:
    """Ask on stdout and read the answer from stdin; raises :class:`CommandError` for anything but yes."""
    import sys

    app.out(f"{question}\nAre you sure you want to continue? [y/N] ")
    app.flush()
    answer = sys.stdin.readline().strip()
    if answer.lower() != "y":
        raise CommandError("", 0)

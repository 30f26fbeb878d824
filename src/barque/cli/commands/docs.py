"""``docs man``: the manual, written to where man(1) looks for it."""

from __future__ import annotations

import os

from barque.cli.command import Command
from barque.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values

_OF_THE_SYSTEM = "/usr/local/share/man"


def _man(app: App, values: Values) -> int:
    from barque.cli.manual import pages

    directory = values.arguments[0] if values.arguments else (
        _OF_THE_SYSTEM if os.geteuid() == 0 else os.path.expanduser("~/.local/share/man"))
    section = os.path.join(directory, "man1")
    try:
        os.makedirs(section, exist_ok=True)
        for name, text in pages():
            with open(os.path.join(section, name), "w", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise CommandError(f"cannot write the manual to {section}: {(error.strerror or '').lower()}") from None
    app.line(section)
    return 0


MAN = Command("docs man", "[DIRECTORY]", "Write the manual pages, by default to where man looks for them", _man, most=1,
              examples="sudo barque docs man && man barque-run")

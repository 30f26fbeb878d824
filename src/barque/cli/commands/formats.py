"""The help text of ``--format`` and the choice between table, quiet, raw and custom formats."""

from __future__ import annotations

from barque.cli.errors import CommandError
from barque.cli.flags import STRING, Flag
from barque.cli.format.table import Row, TemplateError, render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from barque.cli.app import App

FORMAT_HELP = ("Format of the output:\n'table' (default), 'table TEMPLATE' for columns of a Go template,\n"
               "'json', or a Go template for each line")
INSPECT_FORMAT_HELP = "Format of the output: 'json', or a Go template"


def format_flag() -> Flag:
    return Flag("format", "", STRING, FORMAT_HELP)


def inspect_format_flag() -> Flag:
    return Flag("format", "f", STRING, INSPECT_FORMAT_HELP)


def write_rows(app: App, rows: Iterable[Row], form: str, table: str, headers: dict[str, str], type_name: str) -> None:
    """Raises :class:`CommandError` where the template is wrong."""
    try:
        render(rows, form, table, headers, app.out, type_name)
    except TemplateError as error:
        raise CommandError(f"{error}") from None


def choose(form: str, *, quiet: bool, quiet_form: str, raw: str = "") -> str:
    """The effective format: ``--quiet`` prints ids alone."""
    if quiet:
        return quiet_form
    if form == "raw" and raw:
        return raw
    return form

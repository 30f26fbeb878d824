"""docker's list output: ``table``, ``table TEMPLATE``, ``json``, ``raw`` or a template per row."""

from __future__ import annotations

from barque.cli.format.tabwriter import align
from barque.gotemplate.errors import TemplateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from barque.gotemplate.template import Template

__all__ = ["Row", "TemplateError", "compile_format", "label_getter", "render"]


class Row:
    """One object of a list. ``fields`` are strings (or what a template may look into), or functions of a template."""

    __slots__ = ("fields", "type_name")

    def __init__(self, fields: dict[str, Any], type_name: str = "*formatter.Context") -> None:
        self.fields = fields
        self.type_name = type_name


class label_getter:  # noqa: N801 - used as a function in templates
    """``{{.Label "key"}}``."""

    wants_argument = True

    def __init__(self, labels: dict[str, str] | None) -> None:
        self._labels = labels or {}

    def __call__(self, key: str) -> str:
        return self._labels.get(key, "")


#: What functions make of a column's title: nothing, so that it reads as usual.
_OF_TITLES: dict[str, Callable[..., Any]] = {
    "json": lambda title: title if isinstance(title, str) else "", "title": lambda title: title,
    "lower": lambda title: title, "upper": lambda title: title, "truncate": lambda title, _: title}


def compile_format(text: str, functions: dict[str, Callable[..., Any]] | None = None) -> Template:
    """Parse a row format; the two-character escapes for tab and newline are what they stand for."""
    from barque.gotemplate.template import parse

    try:
        return parse(text.replace("\\t", "\t").replace("\\n", "\n"), functions)
    except TemplateError as error:
        raise TemplateError(f"failed to parse template: {error}") from None


def _executed(template: Template, row: Row) -> str:
    try:
        return template.execute(row)
    except TemplateError as error:
        raise TemplateError(f"failed to execute template: {error}") from None


def render(rows: Iterable[Row], form: str, table: str, headers: dict[str, str], write: Callable[[str], object],
           type_name: str = "*formatter.Context") -> None:
    """Write ``rows`` in the format ``form``; "" and ``table`` mean the columns of ``table``."""
    if form in ("", "table"):
        form = "table " + table
    if form == "json":
        from barque.gotemplate.values import to_json

        for row in rows:
            write(to_json(row) + "\n")
        return
    is_table = form.startswith("table")
    body = form.removeprefix("table").strip() if is_table else form
    rows = list(rows)
    if is_table and (lines := _plain_lines(body, rows, headers)) is not None:
        write(align("\n".join(lines)) + "\n")
        return
    template = compile_format(body)
    if not is_table:
        for row in rows:
            row.type_name = type_name
            write(_executed(template, row) + "\n")
        return
    lines = []
    for row in rows:
        row.type_name = type_name
        lines.append(_executed(template, row))
    known = {**headers, "Label": label_header()}
    head = compile_format(body, _OF_TITLES).execute(known)
    write(align("\n".join([head, *lines])) + "\n")


def _plain_lines(body: str, rows: list[Row], headers: dict[str, str]) -> list[str] | None:
    """The lines of a table of fields alone, which the usual ones are; None where it takes the template engine."""
    names = []
    for cell in body.split("\t"):
        name = cell[3:-2]
        if cell[:3] != "{{." or cell[-2:] != "}}" or not name.isidentifier() or name not in headers:
            return None
        names.append(name)
    lines = ["\t".join(headers[name] for name in names)]
    for row in rows:
        cells = [row.fields.get(name) for name in names]
        texts = [cell for cell in cells if isinstance(cell, str)]
        if len(texts) != len(cells):
            return None
        lines.append("\t".join(texts))
    return lines


class label_header:  # noqa: N801 - used as a function in templates
    """The column title of ``{{.Label "com.example.some-key"}}`` is ``some key``."""

    wants_argument = True

    def __call__(self, key: str) -> str:
        return key.rpartition(".")[2].replace("-", " ").replace("_", " ")

"""Elastic tab stops as Go's text/tabwriter lays them out: a column is a run of adjacent lines that have that cell."""

from __future__ import annotations

from barque.cli.format.units import width


def align(text: str, min_width: int = 10, padding: int = 3) -> str:
    """Lay out ``text``: cells end with a tab, what follows the last tab of a line belongs to no column."""
    lines = [line.split("\t") for line in text.split("\n")]
    widths: list[list[int]] = [[0] * (len(cells) - 1) for cells in lines]
    _columns(lines, widths, 0, len(lines), 0, min_width, padding)
    out = []
    for cells, sizes in zip(lines, widths, strict=True):
        row = [cell + " " * (size - width(cell)) for cell, size in zip(cells, sizes, strict=False)]
        out.append("".join(row) + cells[-1])
    return "\n".join(out)


def _columns(lines: list[list[str]], widths: list[list[int]], start: int, end: int, column: int,
             min_width: int, padding: int) -> None:
    row = start
    while row < end:
        if len(lines[row]) - 1 <= column:
            row += 1
            continue
        last = row
        while last < end and len(lines[last]) - 1 > column:
            last += 1
        block = range(row, last)
        content = max(width(lines[i][column]) for i in block)
        # Like Go with the DiscardEmptyColumns flag unset: an empty column still takes its minimum.
        size = max(content + padding, min_width)
        for i in block:
            widths[i][column] = size
        _columns(lines, widths, row, last, column + 1, min_width, padding)
        row = last

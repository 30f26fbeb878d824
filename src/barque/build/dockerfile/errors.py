"""What is wrong with a Dockerfile, and where: the texts are docker's."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from barque.errors import InvalidArgument


class DockerfileError(InvalidArgument):
    """``line`` is the first line of the statement at fault, 0 where no line is; ``excerpt`` are the lines around it."""

    def __init__(self, message: str, line: int = 0, excerpt: str = "") -> None:
        super().__init__(message)
        self.line = line
        self.excerpt = excerpt


class SyntaxProblem(Exception):
    """Raised below the parser, which knows the line."""


class ExpansionError(SyntaxProblem):
    """A word whose quotes or variables make no sense."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" (did you mean X?)"`` where one of ``known`` is near, else nothing."""
    names = sorted(known)
    close = difflib.get_close_matches(word.lower(), [name.lower() for name in names], 1, 0.6)
    if not close or word.lower() == close[0]:
        return ""
    return f" (did you mean {next(name for name in names if name.lower() == close[0])}?)"


def excerpt(text: str, first: int, last: int) -> str:
    """The lines ``first`` to ``last`` with two around them, numbered; those at fault are marked ``>>>``."""
    lines = text.splitlines()
    shown = range(max(first - 2, 1), min(last + 2, len(lines)) + 1)
    width = len(str(shown[-1])) if shown else 1
    marks = {number: ">>> " if first <= number <= last else "    " for number in shown}
    return "\n".join(f"{number:>{width + 3}} | {mark}{lines[number - 1]}".rstrip() for number, mark in marks.items())

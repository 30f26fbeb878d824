"""From the text of a Dockerfile to its statements: directives, comments, continued lines, here-documents."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from barque.build.dockerfile import heredoc
from barque.build.dockerfile.arguments import is_json
from barque.build.dockerfile.errors import DockerfileError, ExpansionError, excerpt
from barque.build.dockerfile.heredoc import Heredoc

_DIRECTIVE = re.compile(r"([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*$")
_DIRECTIVES = ("syntax", "escape", "check")
#: What may be followed by here-documents; ONBUILD by way of the instruction in it.
_WITH_HEREDOCS = frozenset(["add", "copy", "run"])
#: The longest line that docker reads, in bytes.
MAX_LINE = 65536
_KEYWORD = re.compile(r"[\t\v\f\r ]+")


class NoInstructions(DockerfileError):
    """Empty, or nothing but comments."""


@dataclass
class Statement:
    """One instruction: ``text`` without comments and continuations; lines count from 1."""

    text: str
    first: int
    last: int
    heredocs: tuple[Heredoc, ...] = ()
    comments: tuple[str, ...] = ()

    @property
    def keyword(self) -> str:
        return _KEYWORD.split(self.text.strip(), maxsplit=1)[0]


@dataclass
class Source:
    """``empty_continuations`` are the lines at which a statement with an empty continued line ends."""

    statements: list[Statement] = field(default_factory=list)
    directives: dict[str, str] = field(default_factory=dict)
    directive_lines: dict[str, int] = field(default_factory=dict)
    empty_continuations: list[int] = field(default_factory=list)

    @property
    def escape(self) -> str:
        return self.directives.get("escape", "\\")


def read(text: str) -> Source:
    """Raises :class:`DockerfileError`."""
    lines = _Lines(text.removeprefix("\ufeff"))
    lines.read()
    return lines.source


class _Lines:
    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = text.splitlines(keepends=True) if "\n" not in text else re.findall(r"[^\n]*\n|[^\n]+", text)
        self.number = 0
        self.source = Source()
        self.comments: list[str] = []
        self._continued = _continuation("\\")
        self._directives_may_come = True

    def read(self) -> None:
        while self.number < len(self.lines):
            self._next_statement()
        if not self.source.statements:
            raise NoInstructions("file with no instructions", self.number)

    def _take(self) -> str:
        line = self.lines[self.number]
        self.number += 1
        if len(line.encode()) > MAX_LINE:
            raise DockerfileError(f"dockerfile line greater than max allowed size of {MAX_LINE - 1}", self.number)
        return line

    def _next_statement(self) -> None:
        line = self._take().rstrip("\r\n").lstrip()
        first = self.number
        if line.startswith("#"):
            self._comment(line)
            return
        self._directives_may_come = False
        line, whole = self._trim(line)
        if whole and not line:
            return
        parts = [line]
        emptied = False
        while not whole and self.number < len(self.lines):
            line = self._take().rstrip("\r\n")
            bare = line.lstrip()
            if bare.startswith("#"):
                continue
            if not bare:
                emptied = True
                continue
            line, whole = self._trim(line)
            parts.append(line)
        if emptied:
            self.source.empty_continuations.append(self.number)
        statement = Statement("".join(parts), first, self.number, comments=tuple(self.comments))
        self.comments = []
        if statement.text.strip():
            self._heredocs(statement)
            self.source.statements.append(statement)

    def _comment(self, line: str) -> None:
        if self._directives_may_come and (match := _DIRECTIVE.match(line[1:].lstrip())) \
                and match[1].lower() in _DIRECTIVES:
            self._directive(match[1].lower(), match[2])
            return
        self._directives_may_come = False
        comment = line[1:].strip()
        self.comments = [*self.comments, comment] if comment else []

    def _directive(self, name: str, value: str) -> None:
        if name in self.source.directives:
            raise DockerfileError(f"only one {name} parser directive can be used", self.number)
        if name == "escape":
            if value not in ("\\", "`"):
                raise DockerfileError(f"invalid escape token '{value}' does not match ` or \\", self.number)
            self._continued = _continuation(value)
        self.source.directives[name] = value
        self.source.directive_lines[name] = self.number

    def _trim(self, line: str) -> tuple[str, bool]:
        """The line without its continuation mark, and whether it ends the statement."""
        match = self._continued.search(line)
        return (line[:match.start(1)], False) if match else (line, True)

    def _heredocs(self, statement: Statement) -> None:
        if "<<" not in statement.text or not _may_have_heredocs(statement.text):
            return
        try:
            announced = heredoc.announced(statement.text)
        except ExpansionError as error:
            raise self._error(str(error), statement) from None
        found = []
        for document in announced:
            content = self._content(document)
            if content is None:
                raise self._error("unterminated heredoc", statement)
            found.append(Heredoc(document.name, document.expand, document.chomp, content))
        statement.heredocs = tuple(found)
        statement.last = self.number

    def _content(self, document: Heredoc) -> str | None:
        lines: list[str] = []
        while self.number < len(self.lines):
            line = self._take()
            end = line.rstrip("\r\n")
            if (end.lstrip("\t") if document.chomp else end) == document.name:
                return "".join(lines)
            lines.append(line)
        return None

    def _error(self, message: str, statement: Statement) -> DockerfileError:
        return DockerfileError(message, statement.first, excerpt(self.text, statement.first, self.number))


def _continuation(escape: str) -> re.Pattern[str]:
    """The escape character at the end of a line, unless another one stands before it."""
    mark = re.escape(escape)
    return re.compile(rf"(?:(?<=[^{mark}])|^)({mark}[ \t]*)$")


def _may_have_heredocs(text: str) -> bool:
    words = iter(_KEYWORD.split(text.strip(), maxsplit=1))
    keyword, rest = next(words).lower(), next(words, "")
    if keyword == "onbuild":
        return _may_have_heredocs(rest) if rest else False
    return keyword in _WITH_HEREDOCS and not is_json(_without_flags(rest))


def _without_flags(rest: str) -> str:
    while rest.startswith("--"):
        _, *others = _KEYWORD.split(rest, maxsplit=1)
        rest = others[0] if others else ""
    return rest

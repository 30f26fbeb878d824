"""Here-documents: ``RUN <<EOF``, ``COPY <<file.txt /dest``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from barque.build.dockerfile.errors import ExpansionError
from barque.build.dockerfile.expand import Style, expand

_WORD = re.compile(r"(\d*)<<(-?)\s*([^<]*)\Z")
_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)


@dataclass(frozen=True)
class Heredoc:
    """``expand``: variables in the content count, since no part of the name is quoted. ``chomp``: ``<<-``."""

    name: str
    expand: bool
    chomp: bool
    content: str = ""

    @property
    def text(self) -> str:
        """The content as it is used: without leading tabs where they are chomped."""
        return _LEADING_TABS.sub("", self.content) if self.chomp else self.content


def parse(word: str) -> Heredoc | None:
    """What a word announces, or None where it is no here-document. Raises ExpansionError."""
    match = _WORD.match(word)
    if not match or not match[3]:
        return None
    plain = expand(match[3], {}, Style(keep_unset=True)).words
    if len(plain) != 1:
        return None
    quoted = expand(match[3], {}, Style(keep_unset=True, raw_quotes=True)).words
    bare = _quotes(plain[0]) == _quotes(quoted[0])
    return Heredoc(plain[0], bare, match[2] == "-")


def _quotes(word: str) -> int:
    return word.count("'") + word.count('"')


def announced(line: str) -> list[Heredoc]:
    """The here-documents that a line announces, in order. Raises ExpansionError."""
    try:
        words = expand(line, {}, Style(keep_unset=True, raw_quotes=True, raw_escapes=True)).words
    except ExpansionError:
        return []  # the shell may make sense of it
    return [found for word in words if (found := parse(word)) is not None]

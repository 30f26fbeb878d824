"""The ``--name=value`` options of an instruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from barque.build.dockerfile.errors import SyntaxProblem, did_you_mean

STRING, STRINGS, BOOL = "string", "strings", "bool"


class Flags:
    """The options that were given, checked against the kinds that the instruction has. Raises SyntaxProblem."""

    def __init__(self, words: Sequence[str], kinds: Mapping[str, str]) -> None:
        self._values: dict[str, list[str]] = {}
        for word in words:
            shown, equals, value = word.partition("=")
            name = shown[2:]
            kind = kinds.get(name)
            if kind is None:
                raise SyntaxProblem(f"unknown flag: {shown}{did_you_mean(name, kinds)}")
            if name in self._values and kind != STRINGS:
                raise SyntaxProblem(f"duplicate flag specified: {shown}")
            if kind == BOOL:
                value = _boolean(shown, equals, value)
            elif not equals:
                raise SyntaxProblem(f"missing a value on flag: {shown}")
            self._values.setdefault(name, []).append(value)

    def text(self, name: str) -> str:
        return self._values.get(name, [""])[0]

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(self._values.get(name, ()))

    def truth(self, name: str) -> bool:
        return self.text(name) == "true"

    def given_truth(self, name: str) -> bool | None:
        return self.truth(name) if name in self._values else None


def _boolean(shown: str, equals: str, value: str) -> str:
    if equals and not value:
        raise SyntaxProblem(f"missing a value on flag: {shown}")
    lowered = value.lower()
    if lowered not in ("", "true", "false"):
        raise SyntaxProblem(f"expecting boolean value for flag {shown}, not: {value}")
    return lowered or "true"

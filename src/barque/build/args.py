"""Build arguments: what the client gave, what stands before the first FROM, what a stage has declared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from barque.build.dockerfile.expand import Style, expand
from barque.build.dockerfile.instructions import Argument
from barque.oci.platform import Platform

#: May be given without being declared, and do not show in the history.
_PROXIES = frozenset(name for base in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
                     for name in (base, base.lower()))


def platform_arguments(target: Platform, build: Platform, stage: str) -> dict[str, str]:
    """The arguments that are defined for every FROM, and in stages that declare them."""
    found = {"TARGETSTAGE": stage or "default"}
    for prefix, platform in (("TARGET", target), ("BUILD", build)):
        found |= {f"{prefix}PLATFORM": str(platform), f"{prefix}OS": platform.os,
                  f"{prefix}OSVERSION": platform.os_version, f"{prefix}ARCH": platform.architecture,
                  f"{prefix}VARIANT": platform.variant}
    return found


class BuildArguments:
    """Those of one stage, or with ``meta`` filled, those before the first FROM."""

    def __init__(self, given: Mapping[str, str | None], platform: Mapping[str, str]) -> None:
        self._given = given
        self._platform = platform
        self._meta: dict[str, str | None] = {}
        self._declared: dict[str, str | None] = {}
        self.used: set[str] = set()

    def stage(self) -> BuildArguments:
        """For a new stage, which has declared nothing."""
        copy = BuildArguments(self._given, self._platform)
        copy._meta = dict(self._meta)
        copy.used = self.used
        return copy

    def declare_global(self, arguments: Iterable[Argument]) -> None:
        for argument in arguments:
            self._meta[argument.key] = argument.value
            self.used.add(argument.key)

    def declare(self, argument: Argument) -> None:
        self._declared[argument.key] = argument.value
        self.used.add(argument.key)

    def for_from(self) -> dict[str, str]:
        """What FROM and the arguments before it may use."""
        return {**self._platform, **self._values(self._meta)}

    def allowed(self) -> dict[str, str]:
        """What the instructions of the stage may use."""
        values = self._values(self._declared)
        for name in self._given:
            if name in _PROXIES and name not in values and self._given[name] is not None:
                values[name] = self._given[name] or ""
        return values

    def for_run(self, env: Mapping[str, str]) -> list[str]:
        """``NAME=value`` for the environment of RUN, sorted; ENV wins over ARG."""
        return sorted(f"{name}={value}" for name, value in self.allowed().items() if name not in env)

    def in_history(self, env: Mapping[str, str]) -> list[str]:
        """Those that show in the history and count for the cache: not the proxies that nobody declared."""
        return sorted(f"{name}={value}" for name, value in self.allowed().items()
                      if name not in env and (name not in _PROXIES or name in self._declared))

    def unused(self) -> list[str]:
        """What was given and never declared."""
        known = self.used | _PROXIES | set(self._platform) | {"SOURCE_DATE_EPOCH", "BUILDKIT_INLINE_CACHE"}
        return sorted(name for name in self._given if name not in known)

    def _values(self, declared: Mapping[str, str | None]) -> dict[str, str]:
        found = {}
        for name, default in declared.items():
            value = self._given.get(name)
            if value is None and default is not None:
                value = default
            if value is None and declared is not self._meta:
                value = self._values(self._meta).get(name, self._platform.get(name))
            if value is not None:
                found[name] = value
        return found


class Expansion:
    """Replaces variables in instructions: ENV wins over ARG. Meets ``instructions.Expander``."""

    def __init__(self, values: Mapping[str, str], escape: str) -> None:
        self._values = values
        self._escape = escape

    def __call__(self, word: str, /) -> str:
        return expand(word, self._values, Style(escape=self._escape)).text

    def words(self, text: str) -> list[str]:
        return expand(text, self._values, Style(escape=self._escape)).words

    def document(self, content: str) -> str:
        return expand(content, self._values, Style(plain_quotes=True)).text

"""The eighteen instructions as values. Variables in them are not expanded yet: that is done when a step is reached."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from barque.build.dockerfile.arguments import Pair
from barque.build.dockerfile.heredoc import Heredoc
from barque.oci.image import Healthcheck


class Expander(Protocol):
    """Replaces variables; raises ExpansionError."""

    def __call__(self, word: str, /) -> str: ...

    def document(self, content: str) -> str:
        """The same in a here-document, where quotes mean nothing."""


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """``text`` is the instruction as written, on one line; ``keyword`` its name as written; lines count from 1."""

    text: str
    keyword: str
    line: int
    last_line: int
    comments: tuple[str, ...] = ()

    def expanded(self, expand: Expander) -> Instruction:
        """With variables replaced; raises ExpansionError."""
        return self


@dataclass(frozen=True, kw_only=True)
class From(Instruction):
    base: str
    name: str = ""
    written_name: str = ""
    as_keyword: str = ""
    platform: str = ""


@dataclass(frozen=True)
class Argument:
    """``value`` is None for a declaration without default."""

    key: str
    value: str | None


@dataclass(frozen=True, kw_only=True)
class Arg(Instruction):
    arguments: tuple[Argument, ...]

    def expanded(self, expand: Expander) -> Arg:
        return replace(self, arguments=tuple(
            Argument(expand(item.key), None if item.value is None else expand(item.value)) for item in self.arguments))


@dataclass(frozen=True, kw_only=True)
class Env(Instruction):
    pairs: tuple[Pair, ...]

    def expanded(self, expand: Expander) -> Env:
        return replace(self, pairs=_pairs(self.pairs, expand))


@dataclass(frozen=True, kw_only=True)
class Label(Instruction):
    pairs: tuple[Pair, ...]

    def expanded(self, expand: Expander) -> Label:
        return replace(self, pairs=_pairs(self.pairs, expand))


def _pairs(pairs: tuple[Pair, ...], expand: Expander) -> tuple[Pair, ...]:
    return tuple(Pair(expand(pair.key), expand(pair.value), pair.legacy) for pair in pairs)


@dataclass(frozen=True, kw_only=True)
class Maintainer(Instruction):
    author: str


@dataclass(frozen=True)
class InlineFile:
    """A source of COPY or ADD that stands in the Dockerfile; ``heredoc.name`` is the file's name."""

    heredoc: Heredoc
    content: str


@dataclass(frozen=True, kw_only=True)
class Copy(Instruction):
    """COPY. Sources in the order: paths, then here-documents."""

    sources: tuple[str, ...]
    files: tuple[InlineFile, ...] = ()
    destination: str
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()
    source_stage: str = ""
    parents: bool = False
    if_exists: bool = False

    def expanded(self, expand: Expander) -> Copy:
        return replace(self, **_copied(self, expand), source_stage=expand(self.source_stage))


@dataclass(frozen=True, kw_only=True)
class Add(Instruction):
    """ADD. ``unpack`` and ``keep_git_dir`` are None where nothing is said."""

    sources: tuple[str, ...]
    files: tuple[InlineFile, ...] = ()
    destination: str
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None

    def expanded(self, expand: Expander) -> Add:
        return replace(self, **_copied(self, expand), checksum=expand(self.checksum))


def _copied(item: Copy | Add, expand: Expander) -> dict[str, Any]:
    files = tuple(InlineFile(file.heredoc, expand.document(file.content) if file.heredoc.expand
                             else file.content) for file in item.files)
    return {"sources": tuple(expand(source) for source in item.sources), "files": files,
            "destination": expand(item.destination), "chown": expand(item.chown), "chmod": expand(item.chmod),
            "exclude": tuple(expand(pattern) for pattern in item.exclude)}


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """``words`` is one string for the shell form, the arguments for the exec form."""

    words: tuple[str, ...] = ()
    shell_form: bool = True


@dataclass(frozen=True, kw_only=True)
class Run(Instruction):
    command: CommandLine
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[str, ...] = ()
    network: str = "default"
    security: str = "sandbox"


@dataclass(frozen=True, kw_only=True)
class Cmd(Instruction):
    command: CommandLine


@dataclass(frozen=True, kw_only=True)
class Entrypoint(Instruction):
    command: CommandLine


@dataclass(frozen=True, kw_only=True)
class HealthcheckStep(Instruction):
    health: Healthcheck


@dataclass(frozen=True, kw_only=True)
class Expose(Instruction):
    ports: tuple[str, ...]
    written: tuple[str, ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class User(Instruction):
    user: str

    def expanded(self, expand: Expander) -> User:
        return replace(self, user=expand(self.user))


@dataclass(frozen=True, kw_only=True)
class Volume(Instruction):
    volumes: tuple[str, ...]

    def expanded(self, expand: Expander) -> Volume:
        return replace(self, volumes=tuple(expand(volume) for volume in self.volumes))


@dataclass(frozen=True, kw_only=True)
class StopSignal(Instruction):
    signal: str

    def expanded(self, expand: Expander) -> StopSignal:
        return replace(self, signal=expand(self.signal))


@dataclass(frozen=True, kw_only=True)
class Workdir(Instruction):
    path: str

    def expanded(self, expand: Expander) -> Workdir:
        return replace(self, path=expand(self.path))


@dataclass(frozen=True, kw_only=True)
class Shell(Instruction):
    shell: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Onbuild(Instruction):
    expression: str

"""What is allowed in a Dockerfile and nevertheless likely to be wrong: the rules and texts of docker's build checks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from barque.build.dockerfile import instructions as i
from barque.build.dockerfile.errors import ExpansionError, did_you_mean, excerpt
from barque.build.dockerfile.expand import Expanded, Style, expand, go_quote
from barque.build.dockerfile.parser import Dockerfile, Stage
from barque.oci.patterns import Patterns, has_wildcards
from barque.oci.reference import InvalidReference, parse

_ADDRESS = "https://docs.docker.com/go/dockerfile/rule/{}/"
_EXPERIMENTAL = frozenset(["InvalidDefinitionDescription"])
_RESERVED = frozenset(["context", "scratch"])
_SECRET = re.compile(r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)",
                     re.IGNORECASE)
_NO_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_TARGET_PLATFORM = ("$TARGETPLATFORM", "${TARGETPLATFORM}")
#: The names of the variables that a base image has, or None where nobody knows.
BaseVariables = Callable[[str], frozenset[str] | None]


@dataclass(frozen=True)
class Finding:
    """``rule`` is docker's name; lines count from 1."""

    rule: str
    message: str
    line: int
    last_line: int

    @property
    def address(self) -> str:
        return _ADDRESS.format(re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", self.rule).lower())


@dataclass(frozen=True)
class Settings:
    """``# check=skip=A,B;error=true;experimental=C``; "all" stands for every rule."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    @classmethod
    def parse(cls, text: str) -> Settings:
        values = dict(part.strip().partition("=")[::2] for part in text.split(";") if part.strip())
        names = {key: frozenset(name.strip() for name in values.get(key, "").split(",") if name.strip())
                 for key in ("skip", "experimental")}
        return cls(names["skip"], names["experimental"], values.get("error", "").strip().lower() in ("true", "1"))

    def wants(self, rule: str) -> bool:
        if rule in _EXPERIMENTAL and not {"all", rule} & self.experimental:
            return False
        return not {"all", rule} & self.skip


def lint(dockerfile: Dockerfile, platform_arguments: Mapping[str, str], ignore: Iterable[str] = (),
         base_variables: BaseVariables = lambda _: None) -> list[Finding]:
    """All findings in the order of their lines. ``ignore``: the patterns of ``.dockerignore``."""
    settings = Settings.parse(dockerfile.source.directives.get("check", ""))
    checks = _Checks(dockerfile, platform_arguments, Patterns(ignore), base_variables)
    found = [finding for finding in checks.run() if settings.wants(finding.rule)]
    return sorted(found, key=lambda finding: (finding.line, finding.rule))


def report(findings: Iterable[Finding], text: str, name: str) -> str:
    """As docker prints them."""
    parts = []
    for finding in findings:
        bar = "-" * 20
        parts.append(f"WARNING: {finding.rule} - {finding.address}\n{finding.message}\n{name}:{finding.line}\n{bar}\n"
                     f"{excerpt(text, finding.line, finding.last_line)}\n{bar}\n\n")
    count = len(parts)
    summary = "no warnings found." if not count else \
        "1 warning has been found!" if count == 1 else f"{count} warnings have been found!"
    return f"Check complete, {summary}\n" + ("\n" if count else "") + "".join(parts)


class _Checks:
    def __init__(self, dockerfile: Dockerfile, platform_arguments: Mapping[str, str], ignore: Patterns,
                 base_variables: BaseVariables) -> None:
        self._dockerfile = dockerfile
        self._ignore = ignore
        self._base_variables = base_variables
        self._globals = dict(platform_arguments)
        self._all: list[i.Instruction] = [*dockerfile.arguments]
        for stage in dockerfile.stages:
            self._all += [stage.start, *stage.steps]
        #: What each stage leaves to those that are built on it; None where that is not known.
        self._known: list[set[str] | None] = []

    def run(self) -> Iterator[Finding]:
        for line in self._dockerfile.source.empty_continuations:
            yield Finding("NoEmptyContinuation", "Empty continuation line", line, line)
        yield from self._casing()
        yield from self._globals_declared()
        yield from self._stage_names()
        for stage in self._dockerfile.stages:
            yield from self._start(stage.start)
            yield from self._described(stage.start, [stage.start.name] if stage.start.name else [], "FROM")
            yield from self._repeated(stage)
            yield from self._steps(stage)

    def _casing(self) -> Iterator[Finding]:
        lower = sum(step.keyword == step.keyword.lower() for step in self._all)
        upper = sum(step.keyword == step.keyword.upper() for step in self._all)
        wanted = "lowercase" if lower > upper else "uppercase"
        for step in self._all:
            right = step.keyword.lower() if lower > upper else step.keyword.upper()
            if step.keyword != right:
                yield _at(step, "ConsistentInstructionCasing", f"Command '{step.keyword}' should match the case of the "
                          f"command majority ({wanted})")

    def _globals_declared(self) -> Iterator[Finding]:
        for step in self._dockerfile.arguments:
            yield from self._described(step, [item.key for item in step.arguments], "ARG")
            for argument in step.arguments:
                yield from self._secret(step, "ARG", argument.key)
                value = self._expanded(argument.value or "", self._globals)
                self._globals[argument.key] = value.text if value else ""

    def _stage_names(self) -> Iterator[Finding]:
        seen: set[str] = set()
        for stage in self._dockerfile.stages:
            start = stage.start
            if start.written_name != start.written_name.lower():
                yield _at(start, "StageNameCasing", f"Stage name '{start.written_name}' should be lowercase")
            if start.as_keyword and start.keyword in (start.keyword.lower(), start.keyword.upper()):
                right = start.as_keyword.lower() if start.keyword == start.keyword.lower() else start.as_keyword.upper()
                if start.as_keyword != right:
                    yield _at(start, "FromAsCasing",
                              f"'{start.as_keyword}' and '{start.keyword}' keywords' casing do not match")
            if start.name in _RESERVED:
                yield _at(start, "ReservedStageName",
                          f"Stage name should not use the same name as reserved stage {go_quote(start.name)}")
            if start.name and start.name in seen:
                yield _at(start, "DuplicateStageName",
                          f"Duplicate stage name {go_quote(start.name)}, stage names should be unique")
            seen.add(start.name)

    def _start(self, start: i.From) -> Iterator[Finding]:
        for text in (start.base, start.platform):
            found = self._expanded(text, self._globals)
            for name in sorted(found.missing if found else ()):
                hint = did_you_mean(name, self._globals)
                yield _at(start, "UndefinedArgInFrom", f"FROM argument '{name}' is not declared{hint}")
        if start.platform in _TARGET_PLATFORM:
            yield _at(start, "RedundantTargetPlatform", f"Setting platform to predefined {start.platform} in FROM is "
                      "redundant as this is the default behavior")
        elif start.platform and "$" not in start.platform and not any(
                part in start.name for part in start.platform.split("/") if part):
            yield _at(start, "FromPlatformFlagConstDisallowed",
                      f"FROM --platform flag should not use constant value {go_quote(start.platform)}")
        base = self._expanded(start.base, self._globals)
        if "$" in start.base and base is not None and not _is_reference(base.text):
            yield _at(start, "InvalidDefaultArgInFrom",
                      f"Default value for ARG {start.base} results in empty or invalid base image name")

    def _described(self, step: i.Instruction, names: list[str], instruction: str) -> Iterator[Finding]:
        if step.comments and names and step.comments[-1].split(" ")[0] not in names:
            shown = names[0] if len(names) == 1 else "<arg_key>"
            yield _at(step, "InvalidDefinitionDescription",
                      f"Comment for {instruction} should follow the format: `# {shown} <description>`")

    def _repeated(self, stage: Stage) -> Iterator[Finding]:
        kinds = (i.Cmd, i.Entrypoint, i.HealthcheckStep)
        left = Counter(type(step) for step in stage.steps if isinstance(step, kinds))
        for step in stage.steps:
            if isinstance(step, kinds):
                left[type(step)] -= 1
                if left[type(step)]:
                    yield _at(step, "MultipleInstructionsDisallowed",
                              f"Multiple {step.keyword.upper()} instructions should not be used in the same stage "
                              "because only the last one will be used")

    def _steps(self, stage: Stage) -> Iterator[Finding]:
        known = self._of_base(stage.start)
        own_shell = absolute = False
        for step in stage.steps:
            yield from self._simple(step)
            if known is not None:
                yield from self._undefined(step, known)
                known |= _defined(step)
            if isinstance(step, i.Cmd | i.Entrypoint) and step.command.shell_form and step.command.words \
                    and not own_shell:
                yield _at(step, "JSONArgsRecommended", f"JSON arguments recommended for {step.keyword.upper()} to "
                          "prevent unintended behavior related to OS signals")
            if isinstance(step, i.Workdir):
                if not step.path.startswith(("/", "$")) and not absolute:
                    yield _at(step, "WorkdirRelativePath", f"Relative workdir {go_quote(step.path)} can have "
                              "unexpected results if the base image changes")
                absolute = True
            own_shell = own_shell or isinstance(step, i.Shell)
        self._known.append(known)

    def _simple(self, step: i.Instruction) -> Iterator[Finding]:
        """What can be said of an instruction by itself."""
        if isinstance(step, i.Maintainer):
            yield _at(step, "MaintainerDeprecated", "Maintainer instruction is deprecated in favor of using label")
        if isinstance(step, i.Env | i.Label) and any(pair.legacy for pair in step.pairs):
            name = step.keyword.upper()
            yield _at(step, "LegacyKeyValueFormat",
                      f'"{name} key=value" should be used instead of legacy "{name} key value" format')
        if isinstance(step, i.Env):
            for pair in step.pairs:
                yield from self._secret(step, "ENV", pair.key)
        if isinstance(step, i.Arg):
            yield from self._described(step, [item.key for item in step.arguments], "ARG")
            for argument in step.arguments:
                yield from self._secret(step, "ARG", argument.key)
        if isinstance(step, i.Expose):
            yield from self._ports(step)
        if isinstance(step, i.Add) or (isinstance(step, i.Copy) and not step.source_stage):
            yield from self._ignored(step)

    @staticmethod
    def _secret(step: i.Instruction, kind: str, key: str) -> Iterator[Finding]:
        if _SECRET.search(key) and not _NO_SECRET.search(key):
            yield _at(step, "SecretsUsedInArgOrEnv",
                      f"Do not use ARG or ENV instructions for sensitive data ({kind} {go_quote(key)})")

    @staticmethod
    def _ports(step: i.Expose) -> Iterator[Finding]:
        for port in step.written:
            protocol = port.partition("/")[2]
            if protocol != protocol.lower():
                yield _at(step, "ExposeProtoCasing",
                          f"Defined protocol '{port}' in EXPOSE instruction should be lowercase")
            if ":" in port:
                yield _at(step, "ExposeInvalidFormat", "EXPOSE instruction should not define an IP address or "
                          f"host-port mapping, found '{port}'")

    def _ignored(self, step: i.Copy | i.Add) -> Iterator[Finding]:
        if not self._ignore or self._ignore.takes_back:
            return  # what is taken back cannot be told without the files
        for source in step.sources:
            path = source.strip("/").removeprefix("./")
            if path not in ("", ".") and not has_wildcards(path) and "$" not in path and self._ignore.matches(path):
                kind = "Add" if isinstance(step, i.Add) else "Copy"
                yield _at(step, "CopyIgnoredFile",
                          f"Attempting to {kind} file {go_quote(source)} that is excluded by .dockerignore")

    def _of_base(self, start: i.From) -> set[str] | None:
        """The variables that a stage begins with; None where they are not known."""
        base = self._expanded(start.base, self._globals)
        name = base.text if base else ""
        for number in range(len(self._known) - 1, -1, -1):
            if self._dockerfile.stages[number].name and self._dockerfile.stages[number].name == name.lower():
                inherited = self._known[number]
                return None if inherited is None else set(inherited)
        if name == "scratch":
            return {"PATH"}
        variables = self._base_variables(name)
        return None if variables is None else {"PATH", *variables}

    def _undefined(self, step: i.Instruction, known: set[str]) -> Iterator[Finding]:
        for text in _words(step):
            found = self._expanded(text, dict.fromkeys(known, "x"))
            for name in sorted(found.missing if found else ()):
                hint = did_you_mean(name, known).replace("(did you mean ", "(did you mean $")
                yield _at(step, "UndefinedVar", f"Usage of undefined variable '${name}'{hint}")

    def _expanded(self, text: str, values: Mapping[str, str]) -> Expanded | None:
        try:
            return expand(text, values, Style(escape=self._dockerfile.escape))
        except ExpansionError:
            return None  # the build says so


def _at(step: i.Instruction, rule: str, message: str) -> Finding:
    return Finding(rule, message, step.line, step.last_line)


def _defined(step: i.Instruction) -> set[str]:
    if isinstance(step, i.Env):
        return {pair.key for pair in step.pairs}
    return {argument.key for argument in step.arguments} if isinstance(step, i.Arg) else set()


def _words(step: i.Instruction) -> list[str]:
    """The parts of an instruction in which variables are replaced, apart from those that are its own business."""
    match step:
        case i.Env() | i.Label():
            return [pair.value for pair in step.pairs]
        case i.Arg():
            return [argument.value for argument in step.arguments if argument.value is not None]
        case i.Copy() | i.Add():
            return [*step.sources, step.destination, step.chown, step.chmod]
        case i.Workdir():
            return [step.path]
        case i.User():
            return [step.user]
        case i.Volume():
            return list(step.volumes)
        case i.Expose():
            return list(step.ports)
        case i.StopSignal():
            return [step.signal]
    return []


def _is_reference(text: str) -> bool:
    try:
        parse(text)
    except InvalidReference:
        return False
    return True

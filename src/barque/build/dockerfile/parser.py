"""A Dockerfile as stages of instructions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from barque.build.dockerfile import heredoc, instructions, lexer, run_mounts
from barque.build.dockerfile.arguments import json_array, pairs, quoted_words, split_flags, words
from barque.build.dockerfile.durations import parse_duration
from barque.build.dockerfile.errors import DockerfileError, SyntaxProblem, did_you_mean, excerpt
from barque.build.dockerfile.expand import go_quote
from barque.build.dockerfile.flags import BOOL, STRING, STRINGS, Flags
from barque.build.dockerfile.instructions import CommandLine, InlineFile, Instruction
from barque.build.dockerfile.lexer import Source, Statement
from barque.oci.image import Healthcheck

_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*\Z", re.ASCII)
_ONBUILD = re.compile(r"^\s*ONBUILD\s*", re.IGNORECASE)
_SECURITY = ("sandbox", "insecure")
_NETWORK = ("default", "none", "host")


@dataclass
class Stage:
    """``steps`` does not include ``start``."""

    start: instructions.From
    steps: list[Instruction] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.start.name


@dataclass
class Dockerfile:
    """``arguments`` stand before the first FROM."""

    source: Source
    text: str
    arguments: list[instructions.Arg]
    stages: list[Stage]

    @property
    def escape(self) -> str:
        return self.source.escape


@dataclass
class _Request:
    statement: Statement
    keyword: str
    flags: list[str]
    rest: str
    escape: str

    def flagged(self, **kinds: str) -> Flags:
        return Flags(self.flags, {name.replace("_", "-"): kind for name, kind in kinds.items()})

    @property
    def common(self) -> dict[str, Any]:
        return {"text": self.statement.text.strip(), "keyword": self.keyword, "line": self.statement.first,
                "last_line": self.statement.last, "comments": self.statement.comments}


def parse(text: str) -> Dockerfile:
    """Raises :class:`DockerfileError`."""
    try:
        source = lexer.read(text)
    except lexer.NoInstructions as error:
        raise DockerfileError(f"failed to parse Dockerfile: {error.message}") from None
    except DockerfileError as error:
        raise DockerfileError(f"dockerfile parse error on line {error.line}: {error.message}", error.line,
                              error.excerpt) from None
    dockerfile = Dockerfile(source, text, [], [])
    for statement in source.statements:
        _place(dockerfile, _parse_located(statement, source.escape, text), statement)
    return dockerfile


def _place(dockerfile: Dockerfile, instruction: Instruction, statement: Statement) -> None:
    if isinstance(instruction, instructions.From):
        dockerfile.stages.append(Stage(instruction))
    elif dockerfile.stages:
        dockerfile.stages[-1].steps.append(instruction)
    elif isinstance(instruction, instructions.Arg):
        dockerfile.arguments.append(instruction)
    else:
        raise _located("no build stage in current context", statement, dockerfile.text)


def _parse_located(statement: Statement, escape: str, text: str) -> Instruction:
    try:
        return parse_statement(statement, escape)
    except SyntaxProblem as error:
        raise _located(str(error), statement, text) from None


def _located(message: str, statement: Statement, text: str) -> DockerfileError:
    return DockerfileError(f"dockerfile parse error on line {statement.first}: {message}", statement.first,
                           excerpt(text, statement.first, statement.last))


def parse_one(text: str, escape: str = "\\") -> Instruction:
    """One instruction by itself: an ONBUILD trigger, a ``--change``. Raises :class:`DockerfileError`."""
    source = lexer.read(text)
    if len(source.statements) != 1:
        raise DockerfileError(f"{go_quote(text)} is not one instruction")
    return _parse_located(source.statements[0], escape, text)


def parse_statement(statement: Statement, escape: str) -> Instruction:
    """Raises SyntaxProblem."""
    keyword = statement.keyword
    make = _INSTRUCTIONS.get(keyword.lower())
    rest = statement.text.strip()[len(keyword):]
    if make is None:
        names = [name.upper() for name in _INSTRUCTIONS]
        raise SyntaxProblem(f"unknown instruction: {keyword}{did_you_mean(keyword, names)}")
    flags, rest = split_flags(rest, escape)
    return make(_Request(statement, keyword, flags, rest, escape))


def _from(request: _Request) -> Instruction:
    arguments = words(request.rest)
    name = ""
    if len(arguments) == 3 and arguments[1].lower() == "as":
        name = arguments[2].lower()
        if not _STAGE_NAME.match(name):
            raise SyntaxProblem(f"invalid name for build stage: {go_quote(arguments[2])}, name can't start with a "
                                "number or contain symbols")
    elif len(arguments) != 1:
        raise SyntaxProblem("FROM requires either one or three arguments")
    flags = request.flagged(platform=STRING)
    return instructions.From(**request.common, base=arguments[0], name=name, platform=flags.text("platform"),
                             written_name=arguments[2] if name else "", as_keyword=arguments[1] if name else "")


def _arg(request: _Request) -> Instruction:
    request.flagged()
    found = quoted_words(request.rest, request.escape)
    if not found:
        raise SyntaxProblem("ARG requires at least one argument")
    arguments = []
    for word in found:
        key, equals, value = word.partition("=")
        if not key:
            raise SyntaxProblem("ARG names can not be blank")
        arguments.append(instructions.Argument(key, value if equals else None))
    return instructions.Arg(**request.common, arguments=tuple(arguments))


def _env(request: _Request) -> Instruction:
    request.flagged()
    return instructions.Env(**request.common, pairs=tuple(pairs(request.rest, "ENV", request.escape)))


def _label(request: _Request) -> Instruction:
    request.flagged()
    return instructions.Label(**request.common, pairs=tuple(pairs(request.rest, "LABEL", request.escape)))


def _single(request: _Request) -> str:
    if not request.rest:
        raise SyntaxProblem(f"{request.keyword.upper()} requires exactly one argument")
    request.flagged()
    return request.rest


def _maintainer(request: _Request) -> Instruction:
    return instructions.Maintainer(**request.common, author=_single(request))


def _user(request: _Request) -> Instruction:
    return instructions.User(**request.common, user=_single(request))


def _workdir(request: _Request) -> Instruction:
    return instructions.Workdir(**request.common, path=_single(request))


def _stop_signal(request: _Request) -> Instruction:
    return instructions.StopSignal(**request.common, signal=_single(request))


def _list(request: _Request) -> list[str]:
    """A JSON array, or words."""
    array = json_array(request.rest)
    return words(request.rest) if array is None else array


def _sources(request: _Request, name: str) -> tuple[tuple[str, ...], tuple[InlineFile, ...], str]:
    arguments = _list(request)
    if len(arguments) < 2:
        raise SyntaxProblem(f"{name} requires at least two arguments, but only one was provided. Destination could not "
                            "be determined")
    *sources, destination = arguments
    if heredoc.parse(destination) is not None:
        raise SyntaxProblem(f"{name} cannot accept a heredoc as a destination")
    documents = {document.name: document for document in request.statement.heredocs}
    paths, files = [], []
    for source in sources:
        announced = heredoc.parse(source) if documents else None
        if announced is None:
            paths.append(source)
        else:
            document = documents[announced.name]
            files.append(InlineFile(document, document.text))
    return tuple(paths), tuple(files), destination


def _copy(request: _Request) -> Instruction:
    sources, files, destination = _sources(request, "COPY")
    flags = request.flagged(chown=STRING, chmod=STRING, link=BOOL, exclude=STRINGS, parents=BOOL, if_exists=BOOL,
                            **{"from": STRING})
    return instructions.Copy(
        **request.common, sources=sources, files=files, destination=destination, chown=flags.text("chown"),
        chmod=flags.text("chmod"), link=flags.truth("link"), exclude=flags.texts("exclude"),
        source_stage=flags.text("from"), parents=flags.truth("parents"), if_exists=flags.truth("if-exists"))


def _add(request: _Request) -> Instruction:
    sources, files, destination = _sources(request, "ADD")
    flags = request.flagged(chown=STRING, chmod=STRING, link=BOOL, exclude=STRINGS, keep_git_dir=BOOL, checksum=STRING,
                            unpack=BOOL)
    return instructions.Add(
        **request.common, sources=sources, files=files, destination=destination, chown=flags.text("chown"),
        chmod=flags.text("chmod"), link=flags.truth("link"), exclude=flags.texts("exclude"),
        checksum=flags.text("checksum"), keep_git_dir=flags.given_truth("keep-git-dir"),
        unpack=flags.given_truth("unpack"))


def _command(request: _Request) -> CommandLine:
    array = json_array(request.rest)
    if array is not None:
        return CommandLine(words=tuple(array), shell_form=False)
    return CommandLine(words=(request.rest,) if request.rest else (), shell_form=True)


def _run(request: _Request) -> Instruction:
    flags = request.flagged(mount=STRINGS, network=STRING, security=STRING)
    network = flags.text("network").lower() or "default"
    security = flags.text("security").lower() or "sandbox"
    if network not in _NETWORK:
        raise SyntaxProblem(f"invalid network mode: {go_quote(network)}{did_you_mean(network, _NETWORK)}")
    if security not in _SECURITY:
        raise SyntaxProblem(f"security {go_quote(security)} is not valid{did_you_mean(security, _SECURITY)}")
    mounts = flags.texts("mount")
    for mount in mounts:
        if "$" not in mount:
            run_mounts.parse(mount)
    command = _command(request)
    if not command.words:
        raise SyntaxProblem("RUN requires at least one argument")
    return instructions.Run(**request.common, command=command, heredocs=request.statement.heredocs, mounts=mounts,
                            network=network, security=security)


def _cmd(request: _Request) -> Instruction:
    request.flagged()
    return instructions.Cmd(**request.common, command=_command(request))


def _entrypoint(request: _Request) -> Instruction:
    request.flagged()
    return instructions.Entrypoint(**request.common, command=_command(request))


def _healthcheck(request: _Request) -> Instruction:
    match = re.match(r"(\S+)\s*(.*)\Z", request.rest, re.DOTALL)
    if not match:
        raise SyntaxProblem("HEALTHCHECK requires at least one argument")
    kind = match[1].upper()
    if kind == "NONE":
        if match[2]:
            raise SyntaxProblem("HEALTHCHECK NONE takes no arguments")
        return instructions.HealthcheckStep(**request.common, health=Healthcheck(test=("NONE",)))
    flags = request.flagged(interval=STRING, timeout=STRING, start_period=STRING, start_interval=STRING,
                            retries=STRING)
    if kind != "CMD":
        raise SyntaxProblem(f"Unknown type {go_quote(kind)} in HEALTHCHECK (try CMD)")
    array = json_array(match[2])
    test = ("CMD", *array) if array is not None else ("CMD-SHELL", match[2])
    if not match[2] or array == []:
        raise SyntaxProblem("Missing command after HEALTHCHECK CMD")
    return instructions.HealthcheckStep(**request.common, health=Healthcheck(
        test=test, interval=_interval(flags, "interval"), timeout=_interval(flags, "timeout"),
        start_period=_interval(flags, "start-period"), start_interval=_interval(flags, "start-interval"),
        retries=_retries(flags.text("retries"))))


def _interval(flags: Flags, name: str) -> int:
    text = flags.text(name)
    nanoseconds = parse_duration(text) if text else 0
    if nanoseconds and nanoseconds < 1_000_000:
        raise SyntaxProblem(f'Interval "{name}" cannot be less than 1ms')
    return nanoseconds


def _retries(text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch(r"[+-]?[0-9]{1,10}", text):
        raise SyntaxProblem(f"strconv.ParseInt: parsing {go_quote(text)}: invalid syntax")
    if int(text) < 0:
        raise SyntaxProblem(f"--retries cannot be negative ({int(text)})")
    return int(text)


def _expose(request: _Request) -> Instruction:
    ports = words(request.rest)
    if not ports:
        raise SyntaxProblem("EXPOSE requires at least one argument")
    request.flagged()
    return instructions.Expose(**request.common, ports=tuple(sorted(ports)), written=tuple(ports))


def _volume(request: _Request) -> Instruction:
    volumes = [volume.strip() for volume in _list(request)]
    if not volumes:
        raise SyntaxProblem("VOLUME requires at least one argument")
    request.flagged()
    if not all(volumes):
        raise SyntaxProblem("VOLUME specified can not be an empty string")
    return instructions.Volume(**request.common, volumes=tuple(volumes))


def _shell(request: _Request) -> Instruction:
    request.flagged()
    array = json_array(request.rest)
    if array is None and request.rest:
        raise SyntaxProblem("SHELL requires the arguments to be in JSON form")
    if not array:
        raise SyntaxProblem("SHELL requires at least one argument")
    return instructions.Shell(**request.common, shell=tuple(array))


def _onbuild(request: _Request) -> Instruction:
    if not request.rest:
        raise SyntaxProblem("ONBUILD requires at least one argument")
    request.flagged()
    trigger = request.rest.split(maxsplit=1)[0].upper()
    if trigger == "ONBUILD":
        raise SyntaxProblem("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise SyntaxProblem(f"{trigger} isn't allowed as an ONBUILD trigger")
    expression = _ONBUILD.sub("", request.statement.text.strip())
    for document in request.statement.heredocs:
        expression += f"\n{document.content}{document.name}"
    return instructions.Onbuild(**request.common, expression=expression)


_INSTRUCTIONS: dict[str, Callable[[_Request], Instruction]] = {
    "add": _add, "arg": _arg, "cmd": _cmd, "copy": _copy, "entrypoint": _entrypoint, "env": _env, "expose": _expose,
    "from": _from, "healthcheck": _healthcheck, "label": _label, "maintainer": _maintainer, "onbuild": _onbuild,
    "run": _run, "shell": _shell, "stopsignal": _stop_signal, "user": _user, "volume": _volume, "workdir": _workdir,
}

"""The instructions that only change the configuration: pure functions of the state."""

from __future__ import annotations

import posixpath
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from msgspec.structs import replace as with_fields

from barque.build import comments
from barque.build.args import Expansion
from barque.build.dockerfile import instructions as i
from barque.build.state import State, set_env
from barque.errors import InvalidArgument

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?\Z", re.ASCII)
_PROTOCOLS = ("tcp", "udp", "sctp")


class BadStep(InvalidArgument):
    """The instruction cannot be done, whatever the files are."""


@dataclass(frozen=True)
class Change:
    """The state with the new configuration, and what the history says about it."""

    state: State
    comment: str


def apply(state: State, step: i.Instruction, expansion: Expansion) -> Change:
    """``step`` is expanded already, apart from EXPOSE. Raises :class:`BadStep`, ExpansionError."""
    return _CHANGES[type(step)](state, step, expansion)


def is_config(step: i.Instruction) -> bool:
    return type(step) in _CHANGES


def _configured(state: State, comment: str, **fields: Any) -> Change:
    return Change(state.configured(with_fields(state.config, **fields)), comment)


def _env(state: State, step: i.Env, _: Expansion) -> Change:
    env = state.config.env
    for pair in step.pairs:
        if not pair.key:
            raise BadStep("ENV names can not be blank")
        env = set_env(env, pair.key, pair.value)
    return _configured(state, "ENV " + _joined(step.pairs), env=env)


def _label(state: State, step: i.Label, _: Expansion) -> Change:
    labels = dict(state.config.labels or {})
    for pair in step.pairs:
        if not pair.key:
            raise BadStep("LABEL names can not be blank")
        labels[pair.key] = pair.value
    return _configured(state, "LABEL " + _joined(step.pairs), labels=labels)


def _joined(pairs: tuple[Any, ...]) -> str:
    return " ".join(f"{pair.key}={pair.value}" for pair in pairs)


def _arg(state: State, step: i.Arg, _: Expansion) -> Change:
    words = [item.key if item.value is None else f"{item.key}={item.value}" for item in step.arguments]
    return Change(state, "ARG " + " ".join(words))


def _command(state: State, line: i.CommandLine) -> tuple[str, ...]:
    return (*state.shell, *line.words) if line.shell_form else line.words


def _cmd(state: State, step: i.Cmd, _: Expansion) -> Change:
    words = _command(state, step.command)
    change = _configured(state, f"CMD {comments.quoted(words)}", cmd=words)
    return replace(change, state=replace(change.state, cmd_set=True))


def _entrypoint(state: State, step: i.Entrypoint, _: Expansion) -> Change:
    words = _command(state, step.command) if step.command.words else ()
    fields: dict[str, Any] = {} if state.cmd_set else {"cmd": None}
    return _configured(state, f"ENTRYPOINT {comments.quoted(words)}", entrypoint=words or None, **fields)


def _expose(state: State, step: i.Expose, expansion: Expansion) -> Change:
    written = [word for port in step.ports for word in expansion.words(port)]
    ports = dict(state.config.exposed_ports or {})
    for text in written:
        ports |= {port: {} for port in _ports(text)}
    return _configured(state, "EXPOSE " + " ".join(sorted(written)), exposed_ports=ports)


def _ports(text: str) -> list[str]:
    """``80``, ``80/udp``, ``8000-8010/tcp``; a host part before a colon is left out, as docker does."""
    numbers, slash, protocol = text.rpartition(":")[2].partition("/")
    protocol = protocol.lower() if slash else "tcp"
    match = _PORT.match(numbers)
    if not match:
        raise BadStep(f"Invalid containerPort: {numbers}")
    if protocol not in _PROTOCOLS:
        raise BadStep(f"Invalid proto: {protocol}")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first or last > 65535:
        raise BadStep(f"Invalid containerPort: {numbers}")
    return [f"{number}/{protocol}" for number in range(first, last + 1)]


def _user(state: State, step: i.User, _: Expansion) -> Change:
    return _configured(state, f"USER {step.user}", user=step.user)


def _volume(state: State, step: i.Volume, _: Expansion) -> Change:
    volumes = {**(state.config.volumes or {}), **{volume: {} for volume in step.volumes}}
    if not all(step.volumes):
        raise BadStep("VOLUME specified can not be an empty string")
    return _configured(state, f"VOLUME {comments.plain(step.volumes)}", volumes=volumes)


def _stop_signal(state: State, step: i.StopSignal, _: Expansion) -> Change:
    if not _known_signal(step.signal):
        raise BadStep(f"Invalid signal: {step.signal}")
    return _configured(state, f"STOPSIGNAL {step.signal}", stop_signal=step.signal)


def _known_signal(text: str) -> bool:
    if text.isascii() and text.isdecimal():
        return 1 <= int(text) <= signal.SIGRTMAX
    name = text.upper().removeprefix("SIG")
    if re.fullmatch(r"RTM(?:IN\+|AX-)\d{1,2}", name):
        return True
    return hasattr(signal, f"SIG{name}")


def _healthcheck(state: State, step: i.HealthcheckStep, _: Expansion) -> Change:
    return _configured(state, comments.healthcheck(step.health), healthcheck=step.health)


def _shell(state: State, step: i.Shell, _: Expansion) -> Change:
    return _configured(state, f"SHELL {comments.plain(step.shell)}", shell=step.shell)


def _onbuild(state: State, step: i.Onbuild, _: Expansion) -> Change:
    return _configured(state, f"ONBUILD {step.expression}", on_build=(*(state.config.on_build or ()), step.expression))


def _maintainer(state: State, step: i.Maintainer, _: Expansion) -> Change:
    return Change(replace(state, author=step.author), f"MAINTAINER {step.author}")


def working_directory(current: str, path: str) -> str:
    """Where WORKDIR leads; raises :class:`BadStep`."""
    if not path:
        raise BadStep("cannot normalize nothing")
    return posixpath.normpath(posixpath.join("/", current or "/", path)).replace("//", "/")


_CHANGES: dict[type[i.Instruction], Callable[[State, Any, Expansion], Change]] = {
    i.Env: _env, i.Label: _label, i.Arg: _arg, i.Cmd: _cmd, i.Entrypoint: _entrypoint, i.Expose: _expose, i.User: _user,
    i.Volume: _volume, i.StopSignal: _stop_signal, i.HealthcheckStep: _healthcheck, i.Shell: _shell,
    i.Onbuild: _onbuild, i.Maintainer: _maintainer,
}

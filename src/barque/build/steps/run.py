"""RUN: a container over what was built so far, with the mounts that the step asks for."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from barque.build.dockerfile.heredoc import Heredoc
from barque.build.dockerfile.instructions import Run
from barque.build.options import BindMount, BuildOptions
from barque.build.output import Channel
from barque.build.ports import STDERR, STDOUT, RunningStep, RunOrder, TmpfsMount
from barque.build.state import State
from barque.errors import InvalidArgument, PermissionDenied

#: Where the container of a step sees a program that stands in the Dockerfile; no part of the image.
SCRIPTS = "/dev/pipes"


class CommandFailed(InvalidArgument):
    """``code`` is the exit status of the command."""

    text = "The command '{command}' returned a non-zero code: {code}"
    status = 500

    @property
    def code(self) -> int:
        return int(str(self.fields["code"]))


@dataclass(frozen=True)
class Command:
    """``argv`` is what runs, ``shown`` what the history and messages say. ``script`` is to be at ``script_path``."""

    argv: tuple[str, ...]
    shown: tuple[str, ...]
    script: str = ""
    script_path: str = ""


def command_of(step: Run, shell: Sequence[str]) -> Command:
    """Raises InvalidArgument for here-documents in a form that cannot have them."""
    if not step.command.shell_form:
        return Command(step.command.words, step.command.words)
    line = step.command.words[0]
    if not step.heredocs:
        return Command((*shell, line), (*shell, line))
    documents = step.heredocs
    first = documents[0]
    if len(documents) == 1 and line.strip() in _announcements(first):
        return _script(first, shell, line)
    text = line + "".join(f"\n{document.content}{document.name}" for document in documents)
    return Command((*shell, text), (*shell, text))


def _announcements(document: Heredoc) -> tuple[str, ...]:
    dash = "-" if document.chomp else ""
    return tuple(f"<<{dash}{quote}{document.name}{quote}" for quote in ("", "'", '"'))


def _script(document: Heredoc, shell: Sequence[str], line: str) -> Command:
    """The whole command is one here-document: the shell's input, or a program where it begins with ``#!``."""
    shown = (*shell, f"{line}\n{document.content}{document.name}")
    if document.text.startswith("#!"):
        path = f"{SCRIPTS}/{document.name}"
        return Command((path,), shown, script=document.text, script_path=path)
    return Command((*shell, document.text), shown)


@dataclass(frozen=True)
class Mounted:
    """What the mounts of a step became; ``key`` is their part of the cache key."""

    binds: tuple[BindMount, ...] = ()
    tmpfs: tuple[TmpfsMount, ...] = ()
    env: tuple[str, ...] = ()
    key: str = ""


def order_for(state: State, step: Run, command: Command, arguments: Sequence[str], mounted: Mounted,
              options: BuildOptions) -> RunOrder:
    """Raises PermissionDenied for rights that the build does not have."""
    if step.security == "insecure" and not options.allow_insecure:
        raise PermissionDenied("granting security.insecure is not allowed: build with --allow security.insecure")
    network = options.network if step.network == "default" else step.network
    config = state.config
    return RunOrder(
        image_id=state.image_id, chain_id=state.chain_id, command=command.argv,
        env=(*(config.env or ()), *arguments, *mounted.env), user=config.user, working_dir=config.working_dir,
        volumes=tuple(config.volumes or ()), binds=(*mounted.binds, *options.binds), tmpfs=mounted.tmpfs,
        network=network, privileged=step.security == "insecure", extra_hosts=options.extra_hosts, limits=options.limits)


async def follow(running: RunningStep, channel: Channel, command: Command) -> None:
    """Pass the output on until the end; raises :class:`CommandFailed` where it did not end well."""
    # A character may be cut in two by the pieces in which output comes.
    decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in (STDOUT, STDERR)}
    async for stream, data in running.output():
        text = decoders[stream].decode(data)
        if text:
            channel.output(stream, text)
    end = await running.wait()
    if end.oom_killed:
        channel.warning("the kernel killed a process of this step: it needs more memory than it may have\n")
    if end.code or end.error:
        if end.error:
            raise InvalidArgument(end.error)
        raise CommandFailed(command=" ".join(command.shown), code=end.code)

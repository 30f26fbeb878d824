"""Which stages a target needs, and what each of them waits for."""

from __future__ import annotations

from dataclasses import dataclass, field

from barque.build.args import BuildArguments, Expansion
from barque.build.dockerfile import run_mounts
from barque.build.dockerfile.errors import SyntaxProblem
from barque.build.dockerfile.instructions import Arg, Argument, Copy, From, Instruction, Run
from barque.build.dockerfile.parser import Dockerfile, Stage
from barque.errors import InvalidArgument

SCRATCH = "scratch"


class NoSuchTarget(InvalidArgument):
    text = "failed to reach build target {target} in Dockerfile"


@dataclass(frozen=True)
class Origin:
    """Where files or a base come from: the number of a stage, or the name of an image; "scratch" is neither."""

    stage: int | None = None
    image: str = ""

    @property
    def is_scratch(self) -> bool:
        return self.stage is None and self.image == SCRATCH


@dataclass
class PlannedStage:
    """``sources``: what the names in ``--from`` and ``from=`` stand for."""

    number: int
    start: From
    steps: list[Instruction]
    base: Origin
    platform: str = ""
    sources: dict[str, Origin] = field(default_factory=dict)

    @property
    def needs(self) -> set[int]:
        return {origin.stage for origin in (self.base, *self.sources.values()) if origin.stage is not None}


@dataclass
class Plan:
    """``stages`` are those that the target needs, in the order of the file; the target is the last one."""

    stages: list[PlannedStage]
    total_steps: int


def make(dockerfile: Dockerfile, target: str, arguments: BuildArguments) -> Plan:
    """Raises :class:`NoSuchTarget`, ExpansionError, SyntaxProblem."""
    if not dockerfile.stages:
        raise SyntaxProblem("no build stage in current context")
    planned = [_plan(number, stage, dockerfile, arguments) for number, stage in enumerate(dockerfile.stages)]
    last = _target(dockerfile.stages, target)
    needed: set[int] = set()
    pending = [last]
    while pending:
        number = pending.pop()
        if number not in needed:
            needed.add(number)
            pending += planned[number].needs
    stages = [planned[number] for number in sorted(needed)]
    return Plan(stages, len(dockerfile.arguments) + sum(1 + len(stage.steps) for stage in stages))


def _target(stages: list[Stage], target: str) -> int:
    if not target:
        return len(stages) - 1
    for number, stage in enumerate(stages):
        if stage.name and stage.name == target.lower():
            return number
    if target.isascii() and target.isdecimal() and int(target) < len(stages):
        return int(target)
    raise NoSuchTarget(target=target)


def _plan(number: int, stage: Stage, dockerfile: Dockerfile, arguments: BuildArguments) -> PlannedStage:
    expansion = Expansion(arguments.for_from(), dockerfile.escape)
    name = expansion(stage.start.base)
    if not name:
        raise SyntaxProblem(f"base name ({stage.start.base}) should not be blank")
    planned = PlannedStage(number, stage.start, stage.steps, _origin(name, number, dockerfile.stages, digits=False),
                           expansion(stage.start.platform))
    for name in _names(stage, dockerfile.escape, arguments):
        planned.sources[name] = _origin(name, number, dockerfile.stages)
    return planned


def _origin(name: str, before: int, stages: list[Stage], *, digits: bool = True) -> Origin:
    """A stage above by its name (the last one of that name) or number, else an image."""
    for number in range(before - 1, -1, -1):
        if stages[number].name and stages[number].name == name.lower():
            return Origin(stage=number)
    if digits and name.isascii() and name.isdecimal():
        if int(name) >= before:
            raise SyntaxProblem(f"invalid from flag value {name}: index out of bounds")
        return Origin(stage=int(name))
    return Origin(image=name)


def _names(stage: Stage, escape: str, arguments: BuildArguments) -> set[str]:
    """What ``--from`` names, with arguments that are known before anything runs."""
    names = set()
    own = arguments.stage()
    for step in stage.steps:
        expansion = Expansion(own.allowed(), escape)
        if isinstance(step, Arg):
            for argument in step.arguments:
                own.declare(Argument(expansion(argument.key),
                                     None if argument.value is None else expansion(argument.value)))
        elif isinstance(step, Copy) and step.source_stage:
            names.add(expansion(step.source_stage))
        elif isinstance(step, Run):
            names |= {mount.source_stage for mount in (run_mounts.parse(text, expansion) for text in step.mounts)
                      if mount.source_stage}
    return names


def resolve(dockerfile: Dockerfile, target: str, arguments: BuildArguments) -> Plan:
    """As :func:`make`, once the arguments before the first FROM are declared in ``arguments``."""
    for step in dockerfile.arguments:
        expansion = Expansion(arguments.for_from(), dockerfile.escape)
        arguments.declare_global(step.expanded(expansion).arguments)
    return make(dockerfile, target, arguments)

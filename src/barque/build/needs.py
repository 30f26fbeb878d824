"""What a build will want from its client, told from the Dockerfile before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from barque.build import plan as planning
from barque.build.args import BuildArguments, Expansion, platform_arguments
from barque.build.dockerfile import run_mounts
from barque.build.dockerfile.instructions import Run
from barque.build.dockerfile.parser import parse
from barque.build.dockerfile.run_mounts import RunMount
from barque.build.options import BuildOptions
from barque.build.plan import PlannedStage
from barque.oci import platform as platforms
from barque.oci.reference import InvalidReference
from barque.oci.reference import parse as parse_reference


@dataclass(frozen=True)
class Needs:
    """Registries by domain, secrets and SSH agents by id; the stages that will be built."""

    registries: frozenset[str]
    secrets: frozenset[str]
    agents: frozenset[str]
    stages: list[PlannedStage]


def needs(dockerfile: str, options: BuildOptions) -> Needs:
    """Ids that depend on variables which only the build knows are left out.

    Raises InvalidArgument for what cannot be built.
    """
    parsed = parse(dockerfile)
    host = platforms.host()
    arguments = BuildArguments(options.arguments, platform_arguments(options.platform or host, host, options.target))
    plan = planning.resolve(parsed, options.target, arguments)
    mounts = [mount for stage in plan.stages for mount in _mounts(stage, arguments, parsed.escape)]
    images = {origin.image for stage in plan.stages for origin in (stage.base, *stage.sources.values())
              if origin.stage is None and not origin.is_scratch}
    return Needs(
        frozenset(_domains(images)),
        frozenset(mount.id or os.path.basename(mount.source or mount.target) for mount in mounts
                  if mount.type == run_mounts.SECRET),
        frozenset(mount.id or "default" for mount in mounts if mount.type == run_mounts.SSH), plan.stages)


def _mounts(stage: PlannedStage, arguments: BuildArguments, escape: str) -> Iterator[RunMount]:
    expansion = Expansion(arguments.stage().allowed(), escape)
    for step in stage.steps:
        if isinstance(step, Run):
            for text in step.mounts:
                yield run_mounts.parse(text, expansion)


def _domains(images: set[str]) -> Iterator[str]:
    for name in images:
        try:
            yield parse_reference(name).domain
        except InvalidReference:
            continue  # the step that it is about says so

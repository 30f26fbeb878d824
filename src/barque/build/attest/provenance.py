"""How an image was made, as SLSA provenance 1.0 (slsa.dev/spec/v1.0/provenance)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from barque.build import clock
from barque.build.history import BuildRecord
from barque.oci.descriptor import Descriptor
from barque.oci.reference import InvalidReference, parse

PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:barque:build:dockerfile:v1"
MAX = "max"


@dataclass(frozen=True)
class Source:
    """What was built: the Dockerfile's text, and where the context came from ("" for the client's own files)."""

    dockerfile: str
    context: str


def predicate(record: BuildRecord, source: Source, materials: Mapping[str, Descriptor], mode: str, builder: str,
              finished: int) -> dict[str, Any]:
    """``mode`` "max" says also what the arguments were and what each step was. ``finished``: nanoseconds since 1970."""
    request: dict[str, Any] = {"frontend": "dockerfile.v0", "target": record.target}
    internal: dict[str, Any] = {"platform": record.platform}
    if mode == MAX:
        request["args"] = record.arguments
        internal["dockerfile"] = source.dockerfile
        internal["steps"] = [{"number": step.number, "stage": step.stage, "instruction": step.text,
                              "cached": step.cached} for step in record.steps]
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"configSource": {"uri": source.context, "path": record.dockerfile},
                                   "request": request},
            "internalParameters": internal,
            "resolvedDependencies": [_dependency(name, target) for name, target in sorted(materials.items())]},
        "runDetails": {
            "builder": {"id": builder},
            "metadata": {"invocationId": record.id, "startedOn": _seconds(record.started),
                         "finishedOn": _seconds(finished)}}}


def _dependency(name: str, target: Descriptor) -> dict[str, Any]:
    algorithm, _, value = target.digest.partition(":")
    return {"uri": locator(name, target), "digest": {algorithm: value}}


def locator(name: str, target: Descriptor) -> str:
    """The package URL of an image; the name itself where that is an id."""
    try:
        reference = parse(name).with_default_tag()
    except InvalidReference:
        return name
    platform = f"?platform={quote(str(target.platform), safe='')}" if target.platform else ""
    return f"pkg:docker/{reference.familiar_name}@{quote(reference.tag or str(reference.digest), safe='')}{platform}"


def _seconds(nanoseconds: int) -> str:
    return clock.rfc3339(nanoseconds // 10**9 * 10**9)

"""What log messages say about their container: the tag, and the labels and variables that options name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from barque.engine.containers.model import Container
from barque.errors import InvalidArgument
from barque.gotemplate.errors import TemplateError
from barque.gotemplate.template import parse

#: Options of every driver that writes anything.
COMMON = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})
DEFAULT_TAG = "{{.ID}}"


class Info:
    """The fields and methods that a tag may ask for (moby, daemon/logger/loginfo.go)."""

    type_name = "*logger.Info"

    def __init__(self, container: Container, options: Mapping[str, str]) -> None:
        image = container.image_id.removeprefix("sha256:")
        self.fields: dict[str, Any] = {
            "Config": dict(options), "ContainerID": container.id, "ContainerName": container.slashed,
            "ContainerEntrypoint": container.path, "ContainerArgs": list(container.args),
            "ContainerImageID": container.image_id, "ContainerImageName": container.image,
            "ContainerCreated": container.created, "ContainerEnv": list(container.config.env or ()),
            "ContainerLabels": dict(container.config.labels or {}), "DaemonName": "docker",
            "ID": container.id[:12], "FullID": container.id, "Name": container.name, "ImageID": image[:12],
            "ImageFullID": container.image_id, "ImageName": container.image, "Hostname": os.uname().nodename,
            "Command": " ".join([container.path, *container.args])}


def tag(container: Container, options: Mapping[str, str], default: str = DEFAULT_TAG) -> str:
    """The template of the option, filled in. Raises InvalidArgument for what is no template."""
    try:
        return str(parse(options.get("tag") or default).execute(Info(container, options)))
    except TemplateError as error:
        raise InvalidArgument(str(error)) from None


def check(options: Mapping[str, str]) -> None:
    """Raises InvalidArgument for what is no template, and for what is no pattern."""
    try:
        parse(options.get("tag", ""))
        for key in ("labels-regex", "env-regex"):
            re.compile(options.get(key, ""))
    except (TemplateError, re.error) as error:
        raise InvalidArgument(str(error)) from None


def extra(container: Container, options: Mapping[str, str], rename: Callable[[str], str] = str) -> dict[str, str]:
    """Labels and variables that the options name, their names changed by ``rename``."""
    env = dict(item.partition("=")[::2] for item in container.config.env or () if "=" in item)
    result: dict[str, str] = {}
    for kind, source in (("labels", container.config.labels or {}), ("env", env)):
        names = (options.get(kind) or "").split(",")
        pattern = options.get(f"{kind}-regex")
        matcher = re.compile(pattern) if pattern else None
        result.update({rename(key): value for key, value in source.items()
                       if key in names or (matcher is not None and matcher.search(key))})
    return result

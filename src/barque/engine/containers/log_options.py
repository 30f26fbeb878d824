"""``--log-opt`` for the json-file driver -> what the monitor writes."""

from __future__ import annotations

import re

from barque.engine.containers.model import Container
from barque.errors import InvalidArgument
from barque.supervise.messages import LogConfig

#: Unlike docker's, logs are bounded unless ``max-size=-1`` is asked for: full disks are what they are known for.
DEFAULT_SIZE, DEFAULT_FILES = "20m", "5"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kmgt]?)i?b?\Z", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Bytes of ``10m``; -1 stands for no limit. Raises InvalidArgument."""
    if text == "-1":
        return 0
    match = _SIZE.match(text)
    if not match or not float(match[1]):
        raise InvalidArgument(f"invalid size: '{text}'")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))


def check(options: dict[str, str]) -> None:
    """Raises InvalidArgument for values that make no sense."""
    size = parse_size(options["max-size"]) if "max-size" in options else 0
    files = options.get("max-file", "1")
    if not files.isascii() or not files.isdecimal() or int(files) < 1:
        raise InvalidArgument("max-file cannot be less than 1")
    compress = options.get("compress", "false")
    if compress not in ("true", "false"):
        raise InvalidArgument(f'strconv.ParseBool: parsing "{compress}": invalid syntax')
    if compress == "true" and (int(files) == 1 or not size):
        raise InvalidArgument("compress cannot be true when max-file is less than 2 or max-size is not set")


def log_config(container: Container) -> LogConfig | None:
    """What the monitor is told; None keeps no log."""
    chosen = container.host_config.log_config
    if chosen.type != "json-file":
        return None
    options = chosen.config or {}
    size, files = parse_size(options.get("max-size", DEFAULT_SIZE)), options.get("max-file")
    if files is None:
        files = "1" if "max-size" in options else DEFAULT_FILES
    return LogConfig(path=container.log_path, max_size=size, max_files=int(files),
                     compress=options.get("compress") == "true", attrs=_attributes(container, options))


def _attributes(container: Container, options: dict[str, str]) -> dict[str, str]:
    """Labels and variables that the options ask to have in each line."""
    labels = container.config.labels or {}
    env = dict(item.partition("=")[::2] for item in container.config.env or () if "=" in item)
    result = {}
    for source, names, pattern in ((labels, options.get("labels"), options.get("labels-regex")),
                                   (env, options.get("env"), options.get("env-regex"))):
        wanted = set((names or "").split(","))
        matcher = re.compile(pattern) if pattern else None
        result.update({key: value for key, value in source.items()
                       if key in wanted or (matcher is not None and matcher.search(key))})
    if tag := options.get("tag"):
        result["tag"] = (tag.replace("{{.ID}}", container.id[:12]).replace("{{.FullID}}", container.id)
                         .replace("{{.Name}}", container.name).replace("{{.ImageName}}", container.image))
    return result

"""The options of the drivers that write files, as what the writer is told."""

from __future__ import annotations

from collections.abc import Mapping

from barque.engine.logging import go_values as go
from barque.errors import InvalidArgument
from barque.supervise.messages import LogConfig

#: Unlike docker's, logs are bounded unless ``max-size=-1`` is asked for: full disks are what they are known for.
DEFAULT_SIZE, DEFAULT_FILES = 20 << 20, 5


def json_file(options: Mapping[str, str]) -> LogConfig:
    """Without path and attributes."""
    size, files = DEFAULT_SIZE, DEFAULT_FILES
    if "max-size" in options:
        size, files = _size(options["max-size"]), 1
        if size == 0 and options["max-size"] != "-1":
            raise InvalidArgument("max-size must be a positive number")
    if "max-file" in options:
        files = go.integer(options["max-file"])
        if files < 1:
            raise InvalidArgument("max-file cannot be less than 1")
    compress = go.boolean(options["compress"]) if "compress" in options else False
    if compress and (files == 1 or not size):
        raise InvalidArgument("compress cannot be true when max-file is less than 2 or max-size is not set")
    return LogConfig(max_size=size, max_files=files, compress=compress)


def local(options: Mapping[str, str], prefix: str = "") -> LogConfig:
    """Without path and attributes. ``prefix`` "cache-": the copy kept for reading of what is sent elsewhere."""
    size, files, compress = DEFAULT_SIZE, DEFAULT_FILES, True
    if (text := options.get(f"{prefix}max-size")) is not None:
        with go.prefixed(f"invalid value for {prefix}max-size: {text}: "):
            size = _size(text)
    if (text := options.get(f"{prefix}max-file")) is not None:
        with go.prefixed(f"invalid value for {prefix}max-file: {text}: "):
            files = go.integer(text)
    if (text := options.get(f"{prefix}compress")) is not None:
        with go.prefixed("invalid boolean value for compress: "):
            compress = go.boolean(text)
    if files < 0:
        raise InvalidArgument("max-file must not be negative")
    if compress and files <= 1:
        raise InvalidArgument("compression cannot be enabled when max file count is 1")
    return LogConfig(max_size=size, max_files=files, compress=compress, format="local")


def _size(text: str) -> int:
    """-1 stands for no limit."""
    return 0 if text == "-1" else go.size(text)

"""A container's log configuration -> what its monitor and its shipper are told."""

from __future__ import annotations

import os
from collections.abc import Mapping

from msgspec.structs import replace

from barque.engine.containers.model import Container
from barque.engine.logging import files, network
from barque.engine.logging import go_values as go
from barque.engine.logging.attributes import extra, tag
from barque.engine.logging.drivers import FILES, cache_disabled
from barque.supervise.messages import LogConfig, Shipping
from barque.supervise.shippers.orders import (
    FileOrder,
    FluentdOrder,
    GelfOrder,
    JournaldOrder,
    ShipOrder,
    SyslogOrder,
)

Options = Mapping[str, str]
#: What a non-blocking log holds for a slow reader unless ``max-buffer-size`` says otherwise.
DEFAULT_BUFFER = 1_000_000


def path(container_id: str, kind: str, options: Options, directory: str) -> str:
    """The file that the log is read back from; empty where it cannot be."""
    if kind == "json-file":
        return f"{directory}/{container_id}-json.log"
    if kind == "local":
        return f"{directory}/local-logs/container.log"
    return "" if kind == "none" or cache_disabled(options) else f"{directory}/container-cached.log"


def is_shipped(container: Container) -> bool:
    """Whether the output goes through a shipper."""
    log = container.host_config.log_config
    return log.type != "none" and not (log.type in FILES and _blocking(log.config or {}))


def _blocking(options: Options) -> bool:
    return options.get("mode") != "non-blocking"


def plan(container: Container, socket: str) -> tuple[LogConfig | None, ShipOrder | None]:
    """``socket`` is where a shipper would take the output. Raises InvalidArgument for a tag that cannot be filled."""
    kind, options = container.host_config.log_config.type, container.host_config.log_config.config or {}
    if kind == "none":
        return None, None
    buffer = go.size(options["max-buffer-size"], 1024) if "max-buffer-size" in options else DEFAULT_BUFFER
    blocking = _blocking(options)
    if kind in FILES:
        file = _file(container, kind, options)
        if blocking:
            return file, None
        return LogConfig(shipping=Shipping(socket, max(1, buffer), wait=True)), FileOrder(file)
    shipping = Shipping(socket, 0 if blocking else max(1, buffer))
    if kind == "fluentd" and blocking and network.fluentd_async(options):
        shipping = Shipping(socket, network.fluentd_buffer(options), count_lines=True)
    config = LogConfig(shipping=shipping)
    if container.log_path:
        config = replace(_cache(container, options), shipping=shipping)
    return config, _ORDERS[kind](container, options)


def _file(container: Container, kind: str, options: Options) -> LogConfig:
    os.makedirs(os.path.dirname(container.log_path), mode=0o700, exist_ok=True)
    config = files.json_file(options) if kind == "json-file" else files.local(options)
    return replace(config, path=container.log_path, attrs=_attributes(container, options))


def _cache(container: Container, options: Options) -> LogConfig:
    return replace(files.local(options, "cache-"), path=container.log_path, attrs=_attributes(container, options))


def _attributes(container: Container, options: Options) -> dict[str, str]:
    """What stands beside each entry of a file: there the tag has no default."""
    attributes = extra(container, options)
    if named := tag(container, options, ""):
        attributes["tag"] = named
    return attributes


def _syslog(container: Container, options: Options) -> ShipOrder:
    return SyslogOrder(tag=tag(container, options), **network.syslog(options))


def _journald(container: Container, options: Options) -> ShipOrder:
    named = tag(container, options)
    return JournaldOrder({
        "CONTAINER_ID": container.id[:12], "CONTAINER_ID_FULL": container.id, "CONTAINER_NAME": container.name,
        "CONTAINER_TAG": named, "IMAGE_NAME": container.image, "SYSLOG_IDENTIFIER": named,
        **extra(container, options, _journal_name)})


def _journal_name(name: str) -> str:
    """Capitals, digits and underscores, not beginning with one: what the journal takes for a field's name."""
    upper = "".join(c.upper() if c.isascii() and c.isalnum() else "_" for c in name)
    return upper.lstrip("_")


def _fluentd(container: Container, options: Options) -> ShipOrder:
    record = {"container_id": container.id, "container_name": container.slashed, **extra(container, options)}
    return FluentdOrder(tag=tag(container, options), record=record, **network.fluentd(options))


def _gelf(container: Container, options: Options) -> ShipOrder:
    fields = {
        "_container_id": container.id, "_container_name": container.name, "_image_id": container.image_id,
        "_image_name": container.image, "_command": " ".join([container.path, *container.args]),
        "_tag": tag(container, options), "_created": container.created,
        **extra(container, options, lambda key: key if key.startswith("_") else f"_{key}")}
    return GelfOrder(extra=fields, **network.gelf(options))


_ORDERS = {"syslog": _syslog, "journald": _journald, "fluentd": _fluentd, "gelf": _gelf}

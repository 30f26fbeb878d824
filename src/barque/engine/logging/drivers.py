"""The log drivers there are, and the check of their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from barque.engine.logging import attributes, files, network
from barque.engine.logging import go_values as go
from barque.engine.logging.attributes import COMMON
from barque.errors import InvalidArgument

Options = Mapping[str, str]

_FILE = frozenset({"max-size", "max-file", "compress"})
#: Options of every driver: the way from the container to it, and the copy that is kept for reading.
_BUILT_IN = frozenset({"mode", "max-buffer-size", "cache-disabled"}) | {f"cache-{key}" for key in _FILE | COMMON}


class Driver(NamedTuple):
    """``unknown`` is dockerd's refusal of other options; ``check`` raises InvalidArgument."""

    options: frozenset[str]
    unknown: str
    check: Callable[[Options], object]


def _unknown(name: str) -> str:
    return f"unknown log opt '{{key}}' for {name} log driver"


DRIVERS: dict[str, Driver] = {
    "json-file": Driver(_FILE, _unknown("json-file"), files.json_file),
    "local": Driver(_FILE, "unknown log opt '{key}' for log driver local", files.local),
    "syslog": Driver(frozenset({"syslog-address", "syslog-facility", "syslog-tls-ca-cert", "syslog-tls-cert",
                                "syslog-tls-key", "syslog-tls-skip-verify", "syslog-format"}),
                     _unknown("syslog"), network.syslog),
    "journald": Driver(frozenset(), _unknown("journald"), lambda _: None),
    "fluentd": Driver(frozenset({f"fluentd-{key}" for key in (
        "address", "async", "async-reconnect-interval", "buffer-limit", "max-retries", "request-ack", "retry-wait",
        "sub-second-precision", "write-timeout", "read-timeout")}), _unknown("fluentd"), network.fluentd),
    "gelf": Driver(frozenset({"gelf-address", "gelf-compression-level", "gelf-compression-type",
                              "gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"}),
                   'unknown log opt "{key}" for gelf log driver', network.gelf),
}
#: The drivers whose own files are read back.
FILES = ("json-file", "local")


def check(name: str, options: Options) -> None:
    """Raises InvalidArgument for a driver that is not known, and for options that it does not take."""
    if name == "none":
        return
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidArgument(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise InvalidArgument("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        with go.prefixed("error parsing option max-buffer-size: "):
            go.size(options["max-buffer-size"], 1024)
    cache_disabled(options)
    driver = DRIVERS.get(name)
    if driver is None:
        raise InvalidArgument(f"logger: no log driver named '{name}' is registered")
    for key in options:
        if key not in driver.options | COMMON | _BUILT_IN:
            raise InvalidArgument(driver.unknown.format(key=key))
    driver.check(options)
    files.local(options, "cache-")
    attributes.check(options)


def cache_disabled(options: Options) -> bool:
    text = options.get("cache-disabled", "")
    try:
        return go.boolean(text) if text else False
    except InvalidArgument:
        raise InvalidArgument(f"invalid value for option cache-disabled: {text}") from None

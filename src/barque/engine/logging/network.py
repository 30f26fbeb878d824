"""The options of the drivers that send messages elsewhere, as what their shippers are told.

Every function raises InvalidArgument in dockerd's words; parsing is checking.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

from barque.engine.logging import go_values as go
from barque.errors import InvalidArgument
from barque.supervise.shippers.orders import Tls

Options = Mapping[str, str]

FACILITIES = {name: number << 3 for number, name in enumerate(
    ("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"))} | {
    f"local{number}": 16 + number << 3 for number in range(8)}
SyslogFormat = Literal["", "rfc3164", "rfc5424", "rfc5424micro"]
#: Of fluentd's asynchronous mode, in messages.
FLUENTD_BUFFER = 1 << 20
MIN_RECONNECT, MAX_RECONNECT = 0.1, 10.0


def syslog(options: Options) -> dict[str, Any]:
    """Fields of a SyslogOrder, but for the tag."""
    network, address = _syslog_address(options.get("syslog-address", ""))
    name = options.get("syslog-facility", "") or "daemon"
    facility = FACILITIES.get(name)
    if facility is None:
        if not name.isascii() or not name.isdecimal() or int(name) > 23:
            raise InvalidArgument("invalid syslog facility")
        facility = int(name) << 3
    form = options.get("syslog-format", "")
    if form not in get_args(SyslogFormat):
        raise InvalidArgument("Invalid syslog format")
    return {"network": network, "address": address, "facility": facility, "format": cast(SyslogFormat, form),
            "tls": Tls(options.get("syslog-tls-ca-cert", ""), options.get("syslog-tls-cert", ""),
                       options.get("syslog-tls-key", ""), "syslog-tls-skip-verify" not in options)}


def _syslog_address(text: str) -> tuple[str, str]:
    if not text:
        return "", ""
    parts = go.url(text)
    if parts.scheme in ("unix", "unixgram"):
        if not os.path.exists(parts.path):
            raise InvalidArgument(f"stat {parts.path}: no such file or directory")
        return parts.scheme, parts.path
    if parts.scheme not in ("udp", "tcp", "tcp+tls"):
        raise InvalidArgument(f"unsupported scheme: '{parts.scheme}'")
    return parts.scheme, parts.netloc if parts.port is not None else f"{parts.netloc.removesuffix(':')}:514"


def gelf(options: Options) -> dict[str, Any]:
    """Fields of a GelfOrder, but for what it says about the container."""
    text = options.get("gelf-address", "")
    if not text:
        raise InvalidArgument("gelf-address is a required parameter")
    parts = go.url(text)
    if parts.scheme not in ("udp", "tcp"):
        raise InvalidArgument("gelf: endpoint needs to be TCP or UDP")
    if parts.port is None:
        raise InvalidArgument("gelf: please provide gelf-address as proto://host:port")
    fields: dict[str, Any] = {"network": parts.scheme, "address": parts.netloc}
    for key, value in options.items():
        if key.startswith("gelf-compression"):
            if parts.scheme != "udp":
                raise InvalidArgument("compression is only supported on UDP")
            known = ("gzip", "zlib", "none") if key.endswith("type") else tuple(map(str, range(-1, 10)))
            if value not in known:
                raise InvalidArgument(f'unknown value "{value}" for log opt "{key}" for gelf log driver')
            fields |= {"compression": value} if key.endswith("type") else {"level": int(value)}
        elif key.startswith("gelf-tcp"):
            if parts.scheme != "tcp":
                raise InvalidArgument(f'"{key}" is only valid for TCP')
            if not value.isascii() or not value.isdecimal():
                raise InvalidArgument(f'"{key}" must be a positive integer')
            fields["max_reconnect" if key.endswith("max-reconnect") else "reconnect_delay"] = int(value)
    return fields


def fluentd(options: Options) -> dict[str, Any]:
    """Fields of a FluentdOrder, but for tag and record."""
    text = options.get("fluentd-address", "")
    with go.prefixed(f"invalid fluentd-address ({text}): "):
        network, address = _fluentd_address(text)
    fields: dict[str, Any] = {"network": network, "address": address, "lazy": fluentd_async(options)}
    fluentd_buffer(options)
    if wait := options.get("fluentd-retry-wait"):
        fields["retry_wait"] = go.seconds(wait)
    if retries := options.get("fluentd-max-retries"):
        count = go.integer(retries, "ParseUint")
        if count >= 1 << 32:
            raise InvalidArgument(f'strconv.ParseUint: parsing "{retries}": value out of range')
        if count > 0x7FFFFFFF:
            raise InvalidArgument("invalid fluentd-max-retries: value out of range")
        fields["max_retries"] = count
    if interval := options.get("fluentd-async-reconnect-interval"):
        with go.prefixed("invalid value for fluentd-async-reconnect-interval: "):
            fields["reconnect_interval"] = span = go.seconds(interval)
            if span and not MIN_RECONNECT <= span <= MAX_RECONNECT:
                raise InvalidArgument(f'value ("{interval}") must be between 100ms and 10s')
    for key, field in (("fluentd-sub-second-precision", "subsecond"), ("fluentd-request-ack", "request_ack")):
        if value := options.get(key):
            fields[field] = go.boolean(value)
    for key, field in (("fluentd-write-timeout", "write_timeout"), ("fluentd-read-timeout", "read_timeout")):
        if value := options.get(key):
            with go.prefixed(f"invalid value for {key}: value must be a duration: "):
                fields[field] = go.seconds(value)
            if fields[field] < 0:
                raise InvalidArgument(f"invalid value for {key}: value must be a duration that is non-negative")
    return fields


def fluentd_async(options: Options) -> bool:
    text = options.get("fluentd-async", "")
    return go.boolean(text) if text else False


def fluentd_buffer(options: Options) -> int:
    text = options.get("fluentd-buffer-limit", "")
    return go.size(text, 1024) if text else FLUENTD_BUFFER


def _fluentd_address(text: str) -> tuple[str, str]:
    if not text:
        return "tcp", "127.0.0.1:24224"
    parts = go.url(text if "://" in text else f"tcp://{text}")
    if parts.scheme == "unix":
        if not parts.path.strip("/"):
            raise InvalidArgument("path is empty")
        return "unix", parts.path
    if parts.scheme not in ("tcp", "tls"):
        raise InvalidArgument(f"unsupported scheme: '{parts.scheme}'")
    if parts.path:
        raise InvalidArgument("should not contain a path element")
    return parts.scheme, f"{parts.hostname or '127.0.0.1'}:{parts.port or 24224}"

"""What a shipper is told: the kind of target and all that its messages say about the container. Values only."""

from __future__ import annotations

from typing import Literal

import msgspec

from barque.supervise.messages import LogConfig

JOURNAL = "/run/systemd/journal/socket"


class FileOrder(msgspec.Struct, frozen=True, tag="file"):
    """A log file, written by a process that may wait for the disk without its container."""

    log: LogConfig


class Tls(msgspec.Struct, frozen=True):
    """Paths of PEM files; ``ca`` is trusted beside what the system trusts."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    verify: bool = True


class SyslogOrder(msgspec.Struct, frozen=True, tag="syslog"):
    """``network`` is udp, tcp, tcp+tls, unix, unixgram, or empty for the local daemon; ``facility`` is shifted."""

    network: str
    address: str
    facility: int
    tag: str
    format: Literal["", "rfc3164", "rfc5424", "rfc5424micro"] = ""
    tls: Tls = Tls()


class JournaldOrder(msgspec.Struct, frozen=True, tag="journald"):
    """``fields`` go with every message."""

    fields: dict[str, str]
    socket: str = JOURNAL


class FluentdOrder(msgspec.Struct, frozen=True, tag="fluentd"):
    """``network`` is tcp, tls or unix; times in seconds, 0 for none; ``lazy`` connects with the first message."""

    network: str
    address: str
    tag: str
    record: dict[str, str]
    lazy: bool = False
    reconnect_interval: float = 0
    max_retries: int = 0x7FFFFFFF
    retry_wait: float = 1
    request_ack: bool = False
    subsecond: bool = False
    write_timeout: float = 0
    read_timeout: float = 0


class GelfOrder(msgspec.Struct, frozen=True, tag="gelf"):
    """``network`` is udp or tcp; ``extra`` are further fields of the message, with their underscores."""

    network: str
    address: str
    extra: dict[str, str]
    compression: Literal["gzip", "zlib", "none"] = "gzip"
    level: int = 1
    max_reconnect: int = 3
    reconnect_delay: int = 1


ShipOrder = FileOrder | SyslogOrder | JournaldOrder | FluentdOrder | GelfOrder

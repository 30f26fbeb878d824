"""What criu's service says and hears: protocol buffers, as far as its rpc.proto needs them.

Messages are plain mappings of field names; the numbers are those of criu's rpc.proto. Numbers, flags and enums are
varints, text and inner messages are bytes with their length.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from barque import protobuf

Value = int | str | bytes | list[str] | list[dict[str, int | str]]
T = TypeVar("T", int, bytes)

#: criu_req_type
DUMP, RESTORE, PRE_DUMP, NOTIFY, VERSION = 1, 2, 4, 6, 10
#: criu_cg_mode, by the words of ``--manage-cgroups-mode``.
CGROUP_MODES = {"ignore": 0, "soft": 3, "full": 4, "strict": 5, "": 6}
#: criu_network_lock_method
NETWORK_LOCK_NFTABLES = 2

#: criu_opts
OPTIONS = {
    "images_dir_fd": 1, "pid": 2, "leave_running": 3, "ext_unix_sk": 4, "tcp_established": 5, "evasive_devices": 6,
    "shell_job": 7, "file_locks": 8, "log_level": 9, "log_file": 10, "notify_scripts": 12, "root": 13,
    "parent_img": 14, "track_mem": 15, "auto_dedup": 16, "work_dir_fd": 17, "link_remap": 18, "manage_cgroups": 24,
    "cg_root": 25, "rst_sibling": 26, "inherit_fd": 27, "manage_cgroups_mode": 34, "external": 37, "empty_ns": 38,
    "join_ns": 39, "freeze_cgroup": 44, "tcp_skip_in_flight": 46, "orphan_pts_master": 50, "config_file": 51,
    "lsm_profile": 53, "lsm_mount_context": 63, "network_lock": 64,
}
_INNER = {
    "cg_root": {"ctrl": 1, "path": 2}, "inherit_fd": {"key": 1, "fd": 2}, "join_ns": {"ns": 1, "ns_file": 2},
}
_REQUEST = {"type": 1, "opts": 2, "notify_success": 3}


class Answer(msgspec.Struct, frozen=True):
    """``script`` and ``pid`` are set for a notification, ``version`` (such as 31701) for the answer to VERSION."""

    type: int
    success: bool
    script: str = ""
    pid: int = 0
    errno: int = 0
    message: str = ""
    version: int = 0


def request(kind: int, options: Mapping[str, Value] | None = None) -> bytes:
    fields: dict[str, Value] = {"type": kind}
    if options is not None:
        fields["opts"] = _message(options, OPTIONS)
    return _message(fields, _REQUEST)


def acknowledgement() -> bytes:
    return _message({"type": NOTIFY, "notify_success": 1}, _REQUEST)


def _message(values: Mapping[str, Value], numbers: Mapping[str, int]) -> bytes:
    out = bytearray()
    for name, value in values.items():
        for item in value if isinstance(value, list) else [value]:
            out += protobuf.field(numbers[name], _value(name, item))
    return bytes(out)


def _value(name: str, item: int | str | bytes | dict[str, int | str]) -> int | bytes:
    if isinstance(item, dict):
        return _message(item, _INNER[name])
    return item.encode(errors="surrogateescape") if isinstance(item, str) else item


def refusal(message: str) -> bytes:
    """An answer as criu gives it when it fails, for what fails before there is a criu."""
    return _message({"type": 0, "success": 0, "message": message}, {"type": 1, "success": 2, "message": 9})


def answer(data: bytes) -> Answer:
    """Raises ValueError for what is no message."""
    fields = _fields(data)
    notice = _fields(_last(fields, 5, b""))
    version = _fields(_last(fields, 10, b""))
    major, minor, sublevel = (_last(version, number, 0) for number in (1, 2, 4))
    return Answer(type=_last(fields, 1, 0), success=bool(_last(fields, 2, 0)),
                  script=_last(notice, 1, b"").decode(errors="replace"), pid=_last(notice, 2, 0),
                  errno=_last(fields, 7, 0), message=_last(fields, 9, b"").decode(errors="replace"),
                  version=major * 10000 + minor * 100 + sublevel)


def _last(fields: Mapping[int, int | bytes], number: int, default: T) -> T:
    """The field's value; raises ValueError for one of another type."""
    value = fields.get(number, default)
    if not isinstance(value, type(default)):
        raise ValueError(f"field {number} has the wrong type")
    return value


def _fields(data: bytes) -> dict[int, int | bytes]:
    """The fields by number, of repeated ones the last."""
    return {number: value for number, _, value in protobuf.parts(data)}

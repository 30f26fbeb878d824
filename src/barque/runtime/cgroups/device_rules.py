"""The OCI's ordered device rules: their meaning, and how version 1's allow and deny files are brought to it.

A later rule overrides an earlier one for the devices and accesses that it matches. Version 1 keeps one default and a
list of exceptions instead, and cannot except a part of an exception.
"""

from __future__ import annotations

import msgspec

from barque.oci.runtime_spec import DeviceCgroup
from barque.runtime.cgroups.base import InvalidResources, read, write

#: (type, major, minor) -> accesses; -1 stands for all numbers.
Exceptions = dict[tuple[str, int, int], set[str]]
ACCESSES = "rwm"


class DeviceSet(msgspec.Struct):
    """``default_allow`` with exceptions that say the opposite."""

    default_allow: bool = False
    exceptions: Exceptions = msgspec.field(default_factory=dict)


def normalized(rule: DeviceCgroup) -> tuple[bool, str, int, int, str]:
    """(allow, type a/b/c, major, minor, accesses) with -1 for all numbers; raises :class:`InvalidResources`."""
    kind = rule.type or "a"
    access = rule.access or ACCESSES
    if kind not in "abc" or len(kind) != 1 or set(access) - set(ACCESSES):
        raise InvalidResources(f"invalid device rule: type {rule.type!r}, access {rule.access!r}")
    major, minor = (-1 if number is None or number < 0 else number for number in (rule.major, rule.minor))
    if kind == "a" and (major, minor) != (-1, -1):
        raise InvalidResources("invalid device rule: type 'a' is for all devices, not for single numbers")
    return rule.allow, kind, major, minor, access


def evaluate(rules: list[DeviceCgroup]) -> DeviceSet:
    """Fold ordered rules into a default and exceptions; raises :class:`InvalidResources` where that is impossible."""
    result = DeviceSet()
    for rule in rules:
        allow, kind, major, minor, access = normalized(rule)
        if kind == "a" and set(access) == set(ACCESSES):
            result = DeviceSet(allow)
            continue
        for one in ("b", "c") if kind == "a" else (kind,):
            _fold(result, allow, (one, major, minor), set(access))
    return result


def _fold(result: DeviceSet, allow: bool, key: tuple[str, int, int], access: set[str]) -> None:
    if allow != result.default_allow:
        result.exceptions.setdefault(key, set()).update(access)
        return
    for other in list(result.exceptions):
        if not _overlap(key, other) or not access & result.exceptions[other]:
            continue
        if not _covers(key, other):
            raise InvalidResources(f"device rule {key[0]} {_star(key[1])}:{_star(key[2])} would cut a hole into "
                                   f"{other[0]} {_star(other[1])}:{_star(other[2])}, which cgroup v1 cannot express")
        result.exceptions[other] -= access
        if not result.exceptions[other]:
            del result.exceptions[other]


def _covers(key: tuple[str, int, int], other: tuple[str, int, int]) -> bool:
    return key[0] == other[0] and key[1] in (-1, other[1]) and key[2] in (-1, other[2])


def _overlap(key: tuple[str, int, int], other: tuple[str, int, int]) -> bool:
    return key[0] == other[0] and all(-1 in (a, b) or a == b for a, b in zip(key[1:], other[1:], strict=True))


def _star(number: int) -> str:
    return "*" if number < 0 else str(number)


def apply_v1(path: str, rules: list[DeviceCgroup]) -> None:
    """Bring the devices cgroup at ``path`` from what it is to what ``rules`` say, touching only what differs.

    So a change of limits never takes a device away that a running process may keep using.
    """
    target, current = evaluate(rules), parse_list(read(path, "devices.list"))
    grant, revoke = ("devices.deny", "devices.allow") if target.default_allow else ("devices.allow", "devices.deny")
    # Exceptions from "all allowed" are not shown: begin anew then.
    if target.default_allow or current.default_allow:
        write(path, "devices.allow" if target.default_allow else "devices.deny", "a")
        current = DeviceSet(target.default_allow)
    for source, other, name in ((target, current, grant), (current, target, revoke)):
        for key, access in source.exceptions.items():
            if missing := access - other.exceptions.get(key, set()):
                write(path, name, line(key, missing))


def line(key: tuple[str, int, int], access: set[str]) -> str:
    """A rule as devices.allow takes it: ``c 1:3 rwm``."""
    return f"{key[0]} {_star(key[1])}:{_star(key[2])} {''.join(one for one in ACCESSES if one in access)}"


def parse_list(text: str) -> DeviceSet:
    """devices.list: ``a *:* rwm`` is "all allowed" (its exceptions are not shown), else the allowed ones."""
    result = DeviceSet()
    for row in text.splitlines():
        kind, numbers, access = row.split()
        if kind == "a":
            return DeviceSet(True)
        major, minor = (-1 if part == "*" else int(part) for part in numbers.split(":"))
        result.exceptions[kind, major, minor] = set(access)
    return result

"""``--security-opt``: seccomp profiles, no-new-privileges, and what this host does not have."""

from __future__ import annotations

import os

from barque.engine.containers.options import HostConfig
from barque.errors import InvalidArgument, Unsupported
from barque.oci import go_json
from barque.oci.runtime_spec import Seccomp
from barque.runtime import seccomp_profile


class _Kept:
    """The last few compiled-down profiles: reading one costs more than all else that a start does in Python."""

    def __init__(self) -> None:
        self._profiles: dict[tuple[str, frozenset[str]], Seccomp] = {}

    def get(self, text: str, capabilities: frozenset[str]) -> Seccomp:
        key = (text, capabilities)
        if key not in self._profiles:
            if len(self._profiles) >= 8:
                self._profiles.pop(next(iter(self._profiles)))
            self._profiles[key] = (seccomp_profile.docker_profile(text.encode(), capabilities) if text
                                   else seccomp_profile.default_profile(capabilities))
        return self._profiles[key]


_kept = _Kept()


def split(option: str) -> tuple[str, str]:
    """``name=value`` or docker's old ``name:value``."""
    name, equals, value = option.partition("=")
    if not equals or ":" in name:
        name, _, value = option.partition(":")
    return name, value


def check_security_options(host: HostConfig, *, apparmor: bool, selinux: bool) -> None:
    """Raises InvalidArgument or Unsupported for an option that cannot be honoured."""
    for option in host.security_opt or ():
        name, value = split(option)
        if name == "no-new-privileges":
            if value not in ("", "true", "false"):
                raise InvalidArgument(f'invalid --security-opt 2: "{option}"')
        elif name == "apparmor":
            if value != "unconfined" and not apparmor:
                raise Unsupported("AppArmor is not available on this host: cannot apply profile " + value)
            if value != "unconfined":
                raise Unsupported("AppArmor profiles are not supported: " + value)
        elif name == "label":
            if value != "disable" and not selinux:
                raise Unsupported("SELinux is not available on this host: cannot apply label " + value)
        elif name == "seccomp":
            if value not in ("", "unconfined", "builtin"):
                _decode(value)
        elif name not in ("systempaths", "writable-cgroups"):
            raise InvalidArgument(f'invalid --security-opt 2: "{option}"')
        elif name == "writable-cgroups" or value != "unconfined":
            raise Unsupported(f"--security-opt {option} is not supported")


def _decode(text: str) -> None:
    try:
        seccomp_profile.docker_profile(text.encode(), frozenset())
    except (go_json.InvalidJSON, ValueError) as error:
        raise InvalidArgument(f"Decoding seccomp profile failed: {error}") from None


def no_new_privileges(host: HostConfig, default: bool) -> bool:
    for option in host.security_opt or ():
        name, value = split(option)
        if name == "no-new-privileges":
            default = value != "false"
    return default


def seccomp(host: HostConfig, daemon_profile: str, capabilities: list[str]) -> Seccomp | None:
    """The profile of a container, None for unconfined. ``daemon_profile`` is "", builtin, unconfined or a path."""
    if host.privileged:
        return None
    chosen = next((value for name, value in map(split, host.security_opt or ()) if name == "seccomp"), "")
    if not chosen and daemon_profile not in ("", "builtin"):
        chosen = daemon_profile if daemon_profile == "unconfined" else _read(daemon_profile)
    if chosen == "unconfined":
        return None
    return _kept.get("" if chosen == "builtin" else chosen, frozenset(capabilities))


def _read(path: str) -> str:
    if not os.path.isabs(path):
        raise InvalidArgument(f"seccomp profile needs an absolute path: {path}")
    with open(path, encoding="utf-8") as file:
        return file.read()

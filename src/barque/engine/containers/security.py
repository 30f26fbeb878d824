"""``--security-opt``: seccomp and AppArmor profiles, SELinux labels, no-new-privileges."""

from __future__ import annotations

import os

from barque.engine import apparmor
from barque.engine.containers.options import HostConfig
from barque.engine.host import Host
from barque.engine.selinux import check_label
from barque.errors import InvalidArgument, Unsupported
from barque.oci import go_json
from barque.oci.runtime_spec import Seccomp
from barque.runtime import seccomp_profile

#: ``seccomp=learn:FILE``: run under the daemon's profile and write down what of it was used.
LEARN = "learn:"


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


def check_security_options(host: HostConfig, machine: Host, *, selinux: bool) -> None:
    """Raises InvalidArgument or Unsupported for an option that cannot be honoured; ``selinux``: containers get labels.
    """
    for option in host.security_opt or ():
        name, value = split(option)
        if name == "no-new-privileges":
            if value not in ("", "true", "false"):
                raise InvalidArgument(f'invalid --security-opt 2: "{option}"')
        elif name == "apparmor":
            _check_apparmor(value, machine)
        elif name == "label":
            if value != "disable" and not selinux:
                raise Unsupported(f"cannot apply label {value}: " + (
                    "--selinux-enabled is not set" if machine.selinux else "SELinux is not available on this host"))
            check_label(value)
        elif name == "seccomp":
            if value.startswith(LEARN):
                _check_learning(host, value.removeprefix(LEARN))
            elif value not in ("", "unconfined", "builtin"):
                _decode(value)
        elif name not in ("systempaths", "writable-cgroups"):
            raise InvalidArgument(f'invalid --security-opt 2: "{option}"')
        elif name == "writable-cgroups" or value != "unconfined":
            raise Unsupported(f"--security-opt {option} is not supported")


def _check_apparmor(name: str, machine: Host) -> None:
    if name == apparmor.UNCONFINED:
        return
    if not machine.apparmor:
        raise Unsupported("AppArmor is not available on this host: cannot apply profile " + name)
    if name in apparmor.DEFAULT_NAMES and machine.apparmor_parser is None:
        raise Unsupported("there is no apparmor_parser on this host: cannot apply profile " + name)


def apparmor_profile(host: HostConfig, machine: Host) -> str:
    """The profile of the container's processes; empty where the host has no AppArmor, or nothing to load one with."""
    if not machine.apparmor:
        return ""
    asked = next((value for name, value in map(split, reversed(host.security_opt or ())) if name == "apparmor"), "")
    if asked not in apparmor.DEFAULT_NAMES:
        return asked
    if host.privileged and not asked:
        return apparmor.UNCONFINED
    return apparmor.DEFAULT if machine.apparmor_parser else ""


def _check_learning(host: HostConfig, path: str) -> None:
    if not os.path.isabs(path) or path.endswith("/"):
        raise InvalidArgument(f"seccomp=learn needs the absolute path of a file: {path!r}")
    if host.privileged:
        raise InvalidArgument("seccomp=learn is of no use to a privileged container, which has no profile")


def learning_file(host: HostConfig) -> str:
    """Where to write what the container is seen to use; empty when that was not asked for."""
    chosen = next((value for name, value in map(split, host.security_opt or ()) if name == "seccomp"), "")
    return chosen.removeprefix(LEARN) if chosen.startswith(LEARN) else ""


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
    if chosen.startswith(LEARN):
        chosen = "builtin" if daemon_profile == "unconfined" else ""
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

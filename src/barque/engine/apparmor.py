"""The AppArmor profile of containers that ask for none (apparmor.d(5)), and loading it (apparmor_parser(8))."""

from __future__ import annotations

import asyncio
import os
import shutil

from barque.errors import Unavailable

DEFAULT = "barque-default"
UNCONFINED = "unconfined"
#: The names by which the default is asked for: docker's is the one that people have in their files.
DEFAULT_NAMES = ("", DEFAULT, "docker-default")
_LOADED = "/sys/kernel/security/apparmor/profiles"
_ENABLED = "/sys/module/apparmor/parameters/enabled"
_PARSER_DIRS = "/usr/sbin:/sbin"

# Paths are as the container sees them. A rule with deny wins over any that allows. What lies below a process's own
# directory in /proc starts with a digit; of /proc/sys only kernel/shm* is a namespace's own and not dangerous.
# Without an abi rule the parser takes its own default, so that newer kernels do not mediate what is not written here.
_PROFILE = """\
profile {name} flags=(attach_disconnected,mediate_deleted) {{
  network,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (receive) peer={daemon},
  signal (send,receive) peer={name},
  ptrace (trace,read,tracedby,readby) peer={name},

  deny mount,
  deny /proc/* w,
  deny /proc/[^1-9s]*/** w,
  deny /proc/s[^y]*/** w,
  deny /proc/sy[^s]*/** w,
  deny /proc/sys?*/** w,
  deny /proc/sys/{{[^k]*,k[^e]*}}{{,/**}} w,
  deny /proc/sys/kernel/{{[^s]*,s[^h]*,sh[^m]*}}{{,/**}} w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"""


class NotLoadable(Unavailable):
    text = "AppArmor is enabled on this host, but the profile {name} cannot be loaded: {reason}"


def is_enabled() -> bool:
    """Whether the kernel enforces profiles, and they can be looked at."""
    if not os.path.exists(_LOADED):
        return False
    with open(_ENABLED, encoding="ascii") as file:
        return file.read(1) == "Y"


def find_parser() -> str | None:
    """The program that loads profiles; without it there is no default."""
    return shutil.which("apparmor_parser", path=f"{os.environ.get('PATH', os.defpath)}:{_PARSER_DIRS}")


def profile(daemon: str) -> str:
    """The default profile's text; ``daemon`` is the profile of whoever stops containers."""
    return _PROFILE.format(name=DEFAULT, daemon=daemon)


def own_profile() -> str:
    """The profile that this process runs under."""
    with open("/proc/self/attr/current", encoding="utf-8") as file:
        return file.read().strip().partition(" (")[0]


def is_loaded(name: str) -> bool:
    with open(_LOADED, encoding="utf-8") as file:
        return any(line.rpartition(" (")[0] == name for line in file)


async def make_sure(name: str, parser: str | None) -> None:
    """Load the profile ``name``, if it is the default, where it is not: other software may have thrown it out.

    Raises :class:`NotLoadable`.
    """
    if name != DEFAULT or parser is None or is_loaded(DEFAULT):
        return
    process = await asyncio.create_subprocess_exec(
        parser, "--skip-cache", "--replace", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate(profile(own_profile()).encode())
    if process.returncode:
        raise NotLoadable(name=DEFAULT, reason=said.decode(errors="replace").strip())

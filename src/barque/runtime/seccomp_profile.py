"""Seccomp profiles: docker's format and default, and their way into the kernel.

``data/seccomp-default.json`` holds docker's rules as facts; :func:`default_profile` adds ours:

* ``socket`` is allowed by masks of the domain's low 32 bits, because the kernel reads an int there: docker's 64-bit
  "greater than 40" lets ``socket(0x100000026, ..)`` through as AF_ALG. AF_ALG and AF_VSOCK stay out;
* ``socketcall`` (32-bit x86 and arm) passes its arguments in memory, where no filter sees them: refused unless asked
  for;
* io_uring, which would do the same operations unseen, is not on the list.
"""

from __future__ import annotations

import os
from collections import OrderedDict

import msgspec

from barque.oci import go_json
from barque.oci.runtime_spec import Seccomp, SeccompArg, SeccompSyscall
from barque.runtime.seccomp_compile import ARCHES, MACHINES, InvalidProfile, action_value, assemble
from barque.sys import seccomp

_DEFAULT = os.path.join(os.path.dirname(__file__), "data", "seccomp-default.json")
#: (mask, value) pairs that together are every domain below 64 but AF_ALG (38) and AF_VSOCK (40).
_SOCKET_DOMAINS = ((0xFFFFFFE0, 0), (0xFFFFFFFC, 32), (0xFFFFFFFE, 36), (0xFFFFFFFF, 39), (0xFFFFFFFF, 41),
                   (0xFFFFFFFE, 42), (0xFFFFFFFC, 44), (0xFFFFFFF0, 48))
#: How docker's profiles spell a machine in includes and excludes.
_GO_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
FLAGS = {"SECCOMP_FILTER_FLAG_TSYNC": seccomp.FLAG_TSYNC, "SECCOMP_FILTER_FLAG_LOG": seccomp.FLAG_LOG,
          "SECCOMP_FILTER_FLAG_SPEC_ALLOW": seccomp.FLAG_SPEC_ALLOW,
          "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": seccomp.FLAG_WAIT_KILLABLE_RECV}
_CACHED = 16


class _Scope(msgspec.Struct, rename="camel"):
    caps: list[str] = msgspec.field(default_factory=list)
    arches: list[str] = msgspec.field(default_factory=list)
    min_kernel: str = ""


class _Entry(msgspec.Struct, rename="camel"):
    action: str
    names: list[str] = msgspec.field(default_factory=list)
    name: str = ""
    errno_ret: int | None = None
    args: list[SeccompArg] = msgspec.field(default_factory=list)
    includes: _Scope = msgspec.field(default_factory=_Scope)
    excludes: _Scope = msgspec.field(default_factory=_Scope)


class _ArchMap(msgspec.Struct, rename="camel"):
    architecture: str
    sub_architectures: list[str] = msgspec.field(default_factory=list)


class _DockerProfile(msgspec.Struct, rename="camel"):
    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] = msgspec.field(default_factory=list)
    arch_map: list[_ArchMap] = msgspec.field(default_factory=list)
    flags: list[str] = msgspec.field(default_factory=list)
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: list[_Entry] = msgspec.field(default_factory=list)


def docker_profile(document: bytes, caps: frozenset[str], kernel: tuple[int, int] | None = None,
                   arch: str | None = None) -> Seccomp:
    """A profile in docker's format (``--security-opt seccomp=``) for a container that may use ``caps``.

    ``kernel`` (major, minor) and ``arch`` (as in uname -m) default to the machine's. Raises
    :class:`InvalidProfile` with dockerd's text.
    """
    try:
        profile = go_json.decode(document, _DockerProfile)
    except go_json.InvalidJSON as error:
        raise InvalidProfile(f"Decoding seccomp profile failed: {error.message}") from None
    if profile.architectures and profile.arch_map:
        raise InvalidProfile("'architectures' and 'archMap' were specified in the seccomp profile, use either "
                             "'architectures' or 'archMap'")
    machine = arch or os.uname().machine
    scope = caps, kernel or _kernel(os.uname().release), _GO_ARCH.get(machine, machine)
    return Seccomp(default_action=profile.default_action, default_errno_ret=profile.default_errno_ret,
                   architectures=profile.architectures or _architectures(profile.arch_map, machine),
                   flags=profile.flags, listener_path=profile.listener_path,
                   listener_metadata=profile.listener_metadata,
                   syscalls=[SeccompSyscall(names=_names(entry), action=entry.action, errno_ret=entry.errno_ret,
                                            args=entry.args)
                             for entry in profile.syscalls if _applies(entry, *scope)])


def default_profile(caps: frozenset[str], kernel: tuple[int, int] | None = None, arch: str | None = None, *,
                    allow_socketcall: bool = False) -> Seccomp:
    """The profile of containers that ask for none, for one that may use ``caps`` (names with CAP_).

    ``allow_socketcall`` is the switch for 32-bit programs that know no other way to open a socket; AF_ALG and AF_VSOCK
    are then open to them too.
    """
    with open(_DEFAULT, "rb") as file:
        profile = docker_profile(file.read(), caps, kernel, arch)
    refused = {"socket"} if allow_socketcall else {"socket", "socketcall"}
    for entry in profile.syscalls:
        entry.names = [name for name in entry.names if name not in refused]
    profile.syscalls = [entry for entry in profile.syscalls if entry.names]
    profile.syscalls += [
        SeccompSyscall(names=["socket"], action="SCMP_ACT_ALLOW",
                       args=[SeccompArg(index=0, op="SCMP_CMP_MASKED_EQ", value=mask, value_two=value)])
        for mask, value in _SOCKET_DOMAINS]
    return profile


_programs: OrderedDict[bytes, bytes] = OrderedDict()


def compile(profile: Seccomp, arch: str | None = None) -> bytes:
    """``profile`` as an array of struct sock_filter for machine ``arch`` (default: this one).

    The last few programs are kept: compile what most containers use before forking, and the children have
    it. Reads package data the first time, so not for use after pivot_root. Raises :class:`InvalidProfile`.
    """
    machine = arch or os.uname().machine
    key = machine.encode() + b"\0" + msgspec.json.encode(profile)
    program = _programs.get(key)
    if program is None:
        program = _programs[key] = assemble(profile, machine)
        while len(_programs) > _CACHED:
            _programs.popitem(last=False)
    else:
        _programs.move_to_end(key)
    return program


def filter_flags(profile: Seccomp) -> int:
    """The seccomp(2) flags of ``profile``; asks for a listener when a rule notifies. Raises :class:`InvalidProfile`.

    As runc does, a document without flags gets SPEC_ALLOW where the kernel has it: speculative store bypass stays as
    the process had it.
    """
    flags = 0
    for name in profile.flags:
        if name not in FLAGS:
            raise InvalidProfile(f"seccomp flag {name!r} not known or not supported")
        if not seccomp.supports_flag(FLAGS[name]):
            raise InvalidProfile(f"seccomp flag {name!r} is not supported by this kernel")
        flags |= FLAGS[name]
    if not profile.flags and seccomp.supports_flag(seccomp.FLAG_SPEC_ALLOW):
        flags = seccomp.FLAG_SPEC_ALLOW
    if notifies(profile):
        return flags | seccomp.FLAG_NEW_LISTENER
    return flags & ~seccomp.FLAG_WAIT_KILLABLE_RECV


def notifies(profile: Seccomp) -> bool:
    """Whether a rule hands system calls to a listener; its fd belongs to who stands at ``listenerPath``."""
    if action_value(profile.default_action, profile.default_errno_ret) == seccomp.RET_USER_NOTIF:
        raise InvalidProfile("seccomp: SCMP_ACT_NOTIFY cannot be used as default action")
    for entry in profile.syscalls:
        if entry.action == "SCMP_ACT_NOTIFY" and "write" in entry.names:
            raise InvalidProfile("seccomp: SCMP_ACT_NOTIFY cannot be used for the write syscall")
    wanted = any(entry.action == "SCMP_ACT_NOTIFY" for entry in profile.syscalls)
    if wanted and not profile.listener_path:
        raise InvalidProfile("seccomp: SCMP_ACT_NOTIFY needs listenerPath")
    return wanted


def load_filter(program: bytes, flags: int = 0) -> int | None:
    """Put a compiled program on the calling thread: the last step before exec; see :func:`barque.sys.seccomp.load`."""
    return seccomp.load(program, flags)


def _applies(entry: _Entry, caps: frozenset[str], kernel: tuple[int, int], go_arch: str) -> bool:
    includes, excludes = entry.includes, entry.excludes
    if any(cap in caps for cap in excludes.caps) or go_arch in excludes.arches:
        return False
    if excludes.min_kernel and kernel >= _kernel(excludes.min_kernel):
        return False
    if includes.arches and go_arch not in includes.arches:
        return False
    if includes.min_kernel and kernel < _kernel(includes.min_kernel):
        return False
    return all(cap in caps for cap in includes.caps)


def _names(entry: _Entry) -> list[str]:
    if entry.name and entry.names:
        raise InvalidProfile("'name' and 'names' were specified in the seccomp profile, use either 'name' or 'names'")
    return [entry.name] if entry.name else entry.names


def _architectures(arch_map: list[_ArchMap], machine: str) -> list[str]:
    native = MACHINES.get(machine, ("",))[0]
    for entry in arch_map:
        if entry.architecture == native:
            return [native, *(name for name in entry.sub_architectures if name in ARCHES)]
    return []


def _kernel(release: str) -> tuple[int, int]:
    """(major, minor) of ``6.18.44-x``; raises :class:`InvalidProfile`."""
    major, _, rest = release.partition(".")
    minor = "".join(char for char in rest.partition(".")[0] if char in "0123456789")
    if not (major.isascii() and major.isdigit() and minor):
        raise InvalidProfile(f"invalid kernel version: {release!r}")
    return int(major), int(minor)

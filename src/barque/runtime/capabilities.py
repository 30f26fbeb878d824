"""Capabilities of a container: docker's way to choose them, and the steps that give them to a process."""

from __future__ import annotations

import msgspec

from barque.errors import InvalidArgument
from barque.oci.runtime_spec import Capabilities
from barque.sys import caps

#: Docker's 14.
DEFAULT = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
           "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
           "CAP_AUDIT_WRITE")
#: The ``strict`` profile: without what raw packets, device nodes, chroot and the audit log need.
STRICT = tuple(name for name in DEFAULT if name not in ("CAP_AUDIT_WRITE", "CAP_MKNOD", "CAP_NET_RAW",
                                                        "CAP_SYS_CHROOT"))
_ALL = "ALL"


class UnknownCapability(InvalidArgument):
    text = 'invalid {option}: unknown capability: "{name}"'


class UnsupportedCapability(InvalidArgument):
    text = ('invalid {option}: capability not supported by your kernel or not available in the current environment: '
            '"{name}"')


def docker_caps(add: list[str], drop: list[str], privileged: bool = False,
                base: tuple[str, ...] = DEFAULT) -> list[str]:
    """The capabilities of ``--cap-add`` and ``--cap-drop`` as dockerd's TweakCapabilities has them.

    Names come with or without ``CAP_`` in any case; ``ALL`` added means all but the dropped, ``ALL`` dropped means the
    added alone. ``privileged`` ignores both and gives all that the kernel knows. Raises :class:`UnknownCapability` or
    :class:`UnsupportedCapability`.
    """
    everything = known()
    if privileged:
        return everything
    added, dropped = _normalize("CapAdd", add), _normalize("CapDrop", drop)
    if _ALL in added:
        return [name for name in everything if name not in dropped]
    if _ALL in dropped:
        return list(added)
    return [*(name for name in base if name not in dropped and name not in added), *added]


def known() -> list[str]:
    """All capabilities that this kernel has, by number."""
    return list(caps.NAMES[:caps.last() + 1])


def _normalize(option: str, names: list[str]) -> list[str]:
    result = []
    for name in names:
        text = name.upper()
        if text != _ALL and not text.startswith("CAP_"):
            text = "CAP_" + text
        if text != _ALL and text not in caps.NUMBERS:
            raise UnknownCapability(option=option, name=text)
        if text != _ALL and caps.NUMBERS[text] > caps.last():
            raise UnsupportedCapability(option=option, name=text)
        if text not in result:
            result.append(text)
    return result


class CapabilitySets(msgspec.Struct, frozen=True):
    """Masks ready to be applied between fork and exec."""

    bounding: int
    effective: int
    permitted: int
    inheritable: int
    ambient: int


def prepare(wanted: Capabilities | None, available: int | None = None) -> tuple[CapabilitySets, list[str]]:
    """Turn the document's names into masks, without what the host lacks; the strings are warnings that name it.

    ``available`` is the caller's bounding set unless given: nothing outside of it can be had by anyone below us. Names
    that this kernel does not know are left out with a warning too, as runc does. ``None`` (the document is silent)
    means no capabilities at all. To be called before forking.
    """
    if available is None:
        available = caps.bounding()
    if wanted is None:
        return CapabilitySets(0, 0, 0, 0, 0), []
    lists = (wanted.bounding, wanted.effective, wanted.permitted, wanted.inheritable, wanted.ambient)
    named = list(dict.fromkeys(name for names in lists for name in names))
    unknown = [name for name in named if name not in caps.NUMBERS or caps.NUMBERS[name] > caps.last()]
    masks = [caps.to_mask([name for name in names if name not in unknown]) for names in lists]
    lacking = [name for name in named if name not in unknown and not available >> caps.NUMBERS[name] & 1]
    bounding, effective, permitted, inheritable, ambient = (mask & available for mask in masks)
    permitted |= effective
    warnings = []
    if unknown:
        warnings.append(f"ignoring unknown or unavailable capabilities: {', '.join(unknown)}")
    if lacking:
        warnings.append(f"this host cannot grant: {', '.join(lacking)}")
    possible = ambient & permitted & inheritable
    if ambient != possible:
        alone = [name for bit, name in enumerate(caps.NAMES) if (ambient & ~possible) >> bit & 1]
        warnings.append(f"cannot be ambient without being permitted and inheritable: {', '.join(alone)}")
    return CapabilitySets(bounding, effective, permitted, inheritable, possible), warnings


def limit_bounding(sets: CapabilitySets) -> None:
    """First step, while still privileged (needs CAP_SETPCAP), and before the user changes."""
    caps.drop_from_bounding(~sets.bounding)
    caps.keep_on_setuid(True)


def apply(sets: CapabilitySets) -> None:
    """Last step, after the user was changed: effective, permitted, inheritable and ambient become exactly ``sets``.

    Whoever became another user than root has an empty effective set now; keep_on_setuid left the permitted one.
    """
    caps.keep_on_setuid(False)
    caps.clear_ambient()
    caps.set_sets(sets.effective, sets.permitted, sets.inheritable)
    caps.raise_ambient(sets.ambient)


"""Platforms ``os/architecture[/variant]`` (OCI image-spec, image-index.md), normalised as containerd does."""

from __future__ import annotations

import os

import msgspec

from barque.errors import InvalidArgument

_ARCHITECTURES = {
    "x86_64": ("amd64", ""), "x86-64": ("amd64", ""), "amd64": ("amd64", ""),
    "i386": ("386", ""), "i486": ("386", ""), "i586": ("386", ""), "i686": ("386", ""), "386": ("386", ""),
    "aarch64": ("arm64", ""), "arm64": ("arm64", ""),
    "armhf": ("arm", "v7"), "armel": ("arm", "v6"), "armv7l": ("arm", "v7"), "armv6l": ("arm", "v6"),
    "arm": ("arm", "v7"), "riscv64": ("riscv64", ""), "ppc64le": ("ppc64le", ""), "s390x": ("s390x", ""),
    "loongarch64": ("loong64", ""), "loong64": ("loong64", ""), "mips64le": ("mips64le", ""),
}


class InvalidPlatform(InvalidArgument):
    text = '"{value}": unknown operating system or architecture: invalid argument'


class UnreadablePlatform(InvalidPlatform):
    text = '"{value}": cannot parse platform specifier: invalid argument'


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    """An image's platform. Field names are the JSON names; ``os_version`` is ``os.version`` on the wire."""

    architecture: str = ""
    os: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def satisfies(self, wanted: Platform) -> bool:
        """Whether an image of this platform is the one asked for: same OS and architecture, same variant if given."""
        mine, theirs = normalize(self), normalize(wanted)
        if (mine.os, mine.architecture) != (theirs.os, theirs.architecture):
            return False
        return not theirs.variant or mine.variant == theirs.variant


def normalize(platform: Platform) -> Platform:
    """Canonical spelling: ``aarch64`` -> ``arm64``, ``arm64/v8`` -> ``arm64``, ``arm`` -> ``arm/v7``."""
    architecture, variant = _ARCHITECTURES.get(platform.architecture.lower(), (platform.architecture.lower(), ""))
    variant = platform.variant.lower() or variant
    if architecture == "arm64" and variant in ("8", "v8"):
        variant = ""
    if architecture == "amd64" and variant == "v1":
        variant = ""
    if architecture == "arm" and variant.isdigit():
        variant = "v" + variant
    return msgspec.structs.replace(platform, os=platform.os.lower(), architecture=architecture, variant=variant)


def parse(text: str) -> Platform:
    """Read ``linux``, ``amd64``, ``linux/arm64`` or ``linux/arm/v7``; raises :class:`InvalidPlatform`."""
    parts = text.split("/")
    if len(parts) > 3:
        raise UnreadablePlatform(value=text)
    if not all(part and part.replace("_", "").replace("-", "").isalnum() for part in parts):
        raise InvalidPlatform(value=text)
    if len(parts) == 1:
        if parts[0].lower() in _ARCHITECTURES:
            return normalize(Platform(os="linux", architecture=parts[0]))
        if parts[0].lower() not in ("linux", "windows", "darwin", "freebsd"):
            raise InvalidPlatform(value=text)
        return normalize(Platform(os=parts[0], architecture=host().architecture))
    return normalize(Platform(os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) == 3 else ""))


def host() -> Platform:
    """The platform that this machine runs natively."""
    return normalize(Platform(os="linux", architecture=os.uname().machine))

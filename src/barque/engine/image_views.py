"""Images in docker's JSON, in the shape that each API version has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from barque.engine import clock
from barque.image.history import steps
from barque.image.manifests import ListedManifest
from barque.image.resolve import ResolvedImage
from barque.oci.image import RunConfig
from barque.oci.platform import Platform

Version = tuple[int, int]
#: The fields of a configuration in docker's order.
_CONFIG_ORDER = ("Hostname", "Domainname", "User", "AttachStdin", "AttachStdout", "AttachStderr", "ExposedPorts", "Tty",
                 "OpenStdin", "StdinOnce", "Env", "Cmd", "Healthcheck", "ArgsEscaped", "Image", "Volumes", "WorkingDir",
                 "Entrypoint", "NetworkDisabled", "MacAddress", "OnBuild", "Labels", "StopSignal", "StopTimeout",
                 "Shell")


def created_ns(image: ResolvedImage) -> int:
    """Nanoseconds since 1970; 0 where the image does not say or says nonsense."""
    try:
        return clock.parse(image.config.created) if image.config.created else 0
    except ValueError:
        return 0


def labels_of(image: ResolvedImage) -> dict[str, str] | None:
    return image.config.config.labels if image.config.config else None


def summary(image: ResolvedImage, version: Version, containers: int, shared_size: int) -> dict[str, Any]:
    """An entry of ``GET /images/json``."""
    tags, digests = image.repo_tags, image.repo_digests
    if version < (1, 43) and not tags and not digests:
        tags, digests = ["<none>:<none>"], ["<none>@<none>"]
    found: dict[str, Any] = {
        "Containers": containers if version >= (1, 51) else -1, "Created": created_ns(image) // 10**9,
        "Id": image.id, "Labels": labels_of(image), "ParentId": "", "RepoDigests": digests, "RepoTags": tags,
        "SharedSize": shared_size, "Size": image.size}
    if version < (1, 44):
        found["VirtualSize"] = image.size
    return found


def inspect(image: ResolvedImage, version: Version, lower: Sequence[str], last_used: int,
            parent: str = "") -> dict[str, Any]:
    """``GET /images/{name}/json``; ``lower`` are the directories of the layers, topmost first.

    ``last_used`` (nanoseconds since 1970, 0 for never) is more than docker tells.
    """
    config = image.config
    comment = config.history[-1].comment if config.history else ""
    absent = object()
    found = {
        "Id": image.id, "RepoTags": image.repo_tags, "RepoDigests": image.repo_digests,
        "Parent": parent if version < (1, 52) else absent, "Comment": comment,
        "Created": config.created or (clock.ZERO if version < (1, 44) else ""),
        "Container": "" if version < (1, 45) else absent,
        # Gone from the API since 1.45, but docker-compose 1.29, which speaks the newest version, cannot do without.
        "ContainerConfig": _config(RunConfig(), (1, 24)), "DockerVersion": "" if version < (1, 52) else absent,
        "Author": config.author, "Config": _config(config.config or RunConfig(), version),
        "Architecture": config.architecture, "Variant": config.variant or absent, "Os": config.os,
        "OsVersion": config.os_version or absent, "Size": image.size,
        "VirtualSize": image.size if version < (1, 44) else absent,
        "GraphDriver": {"Data": _directories(lower), "Name": "overlay2"},
        "RootFS": {"Type": config.rootfs.type, "Layers": list(config.rootfs.diff_ids)},
        "Metadata": {"LastTagTime": clock.render(image.updated),
                     **({"LastUsedTime": clock.render(last_used)} if last_used else {})}}
    return {key: value for key, value in found.items() if value is not absent}


def _directories(lower: Sequence[str]) -> dict[str, str] | None:
    if not lower:
        return None
    data = {"UpperDir": lower[0]}
    if len(lower) > 1:
        data["LowerDir"] = ":".join(lower[1:])
    return data


def _config(config: RunConfig, version: Version) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(config)
    if version >= (1, 52):
        return found
    always: dict[str, Any] = {"Cmd": None, "Entrypoint": None, "Env": None, "Labels": None, "OnBuild": None, "User": "",
                              "Volumes": None, "WorkingDir": ""}
    if version < (1, 50):
        always |= {"Hostname": "", "Domainname": "", "AttachStdin": False, "AttachStdout": False, "AttachStderr": False,
                   "Tty": False, "OpenStdin": False, "StdinOnce": False, "Image": ""}
    both = {**always, **found}
    return {key: both[key] for key in sorted(both, key=_CONFIG_ORDER.index)}


def history(image: ResolvedImage) -> list[dict[str, Any]]:
    """``GET /images/{name}/history``: only the newest entry carries the image's id and tags."""
    entries: list[dict[str, Any]] = []
    for step in steps(image.config, image.layer_sizes):
        try:
            created = clock.parse(step.history.created) // 10**9 if step.history.created else 0
        except ValueError:
            created = 0
        entries.append({"Id": "<missing>", "Created": created, "CreatedBy": step.history.created_by, "Tags": None,
                        "Size": step.size, "Comment": step.history.comment})
    if entries:
        entries[0] |= {"Id": image.id, "Tags": image.repo_tags or None}
    return entries


def manifests(images: Mapping[str, tuple[ResolvedImage, Sequence[str]]],
              listed: Sequence[ListedManifest]) -> list[dict[str, Any]]:
    """``Manifests`` of an image: API 1.47 in lists, 1.48 in inspect.

    ``images``: those that are here, with the containers made from each, by the digests of their manifests.
    """
    return [_manifest(entry, *images.get(entry.descriptor.digest, (None, ()))) for entry in listed]


def _manifest(entry: ListedManifest, image: ResolvedImage | None, containers: Sequence[str]) -> dict[str, Any]:
    unpacked = image.size if image else 0
    found: dict[str, Any] = {
        "ID": entry.descriptor.digest, "Descriptor": entry.descriptor, "Available": entry.available,
        "Size": {"Content": entry.content, "Total": entry.content + unpacked}, "Kind": entry.kind}
    if entry.kind == "image":
        platform = entry.descriptor.platform or (image.platform if image else Platform())
        found["ImageData"] = {"Platform": platform, "Containers": list(containers), "Size": {"Unpacked": unpacked}}
    elif entry.kind == "attestation":
        found["AttestationData"] = {"For": entry.about}
    return found

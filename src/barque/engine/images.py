"""Use cases of images: list, inspect, pull, push, tag, remove, prune, as docker's API has them."""

from __future__ import annotations

import builtins
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from barque.engine import clock, filters, image_views
from barque.engine.filters import Filters, match_labels
from barque.engine.image_removal import ImageUser, check_use, decide, still_used
from barque.engine.image_views import Version
from barque.errors import InvalidArgument
from barque.image.client.auth import Credentials
from barque.image.client.errors import RegistryRefused, RegistryUnreachable
from barque.image.client.search import SearchResult
from barque.image.fetch import Puller
from barque.image.names import ImageNames
from barque.image.progress import Progress, Report
from barque.image.push import Pusher
from barque.image.resolve import Images, NoSuchPlatform, ResolvedImage, is_id_prefix
from barque.oci.platform import Platform
from barque.oci.reference import Reference
from barque.store.gc import GcReport
from barque.store.snapshots import Snapshots

LIST_FILTERS = ("dangling", "label", "before", "since", "reference", "until")
SEARCH_FILTERS = ("is-automated", "is-official", "stars")
PRUNE_FILTERS = ("dangling", "label", "label!", "until")
Emit = Callable[[str, str, str, Mapping[str, str]], None]


class ImageUsers(Protocol):
    """What the engine knows of containers: a consumer's view."""

    def users_of_image(self, image_id: str) -> Sequence[ImageUser]: ...


class Collector(Protocol):
    async def __call__(self) -> GcReport:
        """Remove what nothing refers to any more."""


class ImageService:
    def __init__(self, images: Images, names: ImageNames, snapshots: Snapshots, puller: Puller, pusher: Pusher,
                 users: ImageUsers, collect: Collector, emit: Emit,
                 last_used: Callable[[str], int] = lambda _: 0) -> None:
        self._images = images
        self._names = names
        self._snapshots = snapshots
        self._puller = puller
        self._pusher = pusher
        self._users = users
        self._collect = collect
        self._emit = emit
        self._last_used = last_used

    def _event(self, action: str, actor: str, name: str, image: ResolvedImage | None = None) -> None:
        labels = (image_views.labels_of(image) or {}) if image else {}
        self._emit("image", action, actor, {**labels, "name": name})

    async def count(self) -> int:
        return len({str(row.id) for row in await self._names.list() if row.preferred})

    async def disk_usage(self) -> tuple[builtins.list[dict[str, Any]], int]:
        """The list entries of all images, and the bytes of all, unpacked and packed: what is on the disk, once each.

        Sizes in these entries are of both, other than in :meth:`list`.
        """
        images = await self._images.all()
        platforms = _Platforms(images)
        parts = {image.id: await self._images.parts(image) for image in images}
        uses = Counter(name for sizes in parts.values() for name in sizes)
        found = []
        for image in _listed(images):
            together = {name: size for each in platforms.of(image) for name, size in parts[each.id].items()}
            shared = sum(size for name, size in parts[image.id].items() if uses[name] > 1)
            entry = image_views.summary(image, (1, 51), len(self._containers_of(platforms.of(image))), shared)
            found.append({**entry, "Size": sum(together.values())})
        return found, sum({name: size for sizes in parts.values() for name, size in sizes.items()}.values())

    def _containers_of(self, images: Sequence[ResolvedImage]) -> builtins.list[str]:
        return [user.container_id for each in images for user in self._users.users_of_image(each.id)]

    async def list(self, version: Version, wanted: Filters, *, shared_size: bool = False,
                   manifests: bool = False, identity: bool = False) -> builtins.list[dict[str, Any]]:
        """``GET /images/json``, newest first. Raises InvalidArgument, NoSuchImage (before, since)."""
        images = await self._images.all()
        platforms = _Platforms(images)
        shared = _shared_sizes(images) if shared_size else {}
        chosen = await self._filtered(_listed(images), wanted)
        chosen.sort(key=image_views.created_ns, reverse=True)
        return [image_views.summary(image, version, len(self._containers_of(platforms.of(image))),
                                    shared.get(image.id, -1))
                | (await self._platforms_of(image, platforms.of(image)) if manifests else {})
                | (await self._identity(image) if identity else {})
                for image in chosen]

    async def _platforms_of(self, image: ResolvedImage, platforms: Sequence[ResolvedImage]) -> dict[str, Any]:
        """The manifests of a listed image. Its size is that of all its platforms then, packed and unpacked."""
        found = await self._manifests_of(image, platforms)
        total = sum(entry["Size"]["Total"] for entry in found["Manifests"] if entry["Kind"] == "image")
        return found | {"Size": total or image.size}

    async def _manifests_of(self, image: ResolvedImage, platforms: Sequence[ResolvedImage]) -> dict[str, Any]:
        users = {each.target.digest: (each, [user.container_id for user in self._users.users_of_image(each.id)])
                 for each in platforms}
        return {"Descriptor": await self._images.manifests.top(image.target),
                "Manifests": image_views.manifests(users, await self._images.manifests.listed(image.target))}

    async def _filtered(self, images: builtins.list[ResolvedImage], wanted: Filters) -> builtins.list[ResolvedImage]:
        async def created(text: str) -> int:
            return image_views.created_ns(await self._images.resolve(text, artifacts=True))

        before = [await created(text) for text in wanted.get("before", [])]
        before += [_moment(text) for text in wanted.get("until", [])]
        since = [await created(text) for text in wanted.get("since", [])]
        dangling = filters.flag(wanted, "dangling")
        patterns = [_go_pattern(text) for text in wanted.get("reference", [])]
        found = []
        for image in images:
            moment = image_views.created_ns(image)
            if any(moment >= limit for limit in before) or any(moment <= limit for limit in since):
                continue
            if dangling is not None and dangling == bool(image.repo_tags):
                continue
            if not match_labels(wanted.get("label", []), image_views.labels_of(image)):
                continue
            if patterns:
                names = tuple(row for row in image.names if any(_matches(item, row.reference) for item in patterns))
                if not names:
                    continue
                # Only the names that were asked for are listed.
                image = replace(image, names=names)
            found.append(image)
        return found

    async def inspect(self, text: str, version: Version, platform: Platform | None = None, *,
                      manifests: bool = False) -> dict[str, Any]:
        image = await self._images.resolve(text, platform, artifacts=True)
        lower = await self._snapshots.image_lower(image.chain_id)
        extra = await self._manifests_of(image, await self._images.platforms(image)) if manifests else {}
        extra |= await self._identity(image)
        parent = await self._images.parent(image)
        return image_views.inspect(image, version, lower, self._last_used(image.id), parent) | extra

    async def _identity(self, image: ResolvedImage) -> dict[str, Any]:
        """Which signatures were verified when the image was pulled."""
        signatures = await self._images.signatures(image)
        return {"Identity": {"Signature": signatures}} if signatures else {}

    async def history(self, text: str, platform: Platform | None = None) -> builtins.list[dict[str, Any]]:
        return image_views.history(await self._images.resolve(text, platform, artifacts=True))

    async def tag(self, text: str, ref: Reference) -> None:
        """Give the image, with all its platforms, another name; one that loses its last name by that is dangling."""
        if ref.digest is not None:
            raise InvalidArgument("refusing to create a tag with a digest reference")
        if ref.familiar_name == "sha256":
            raise InvalidArgument("refusing to create an ambiguous tag using digest algorithm as name")
        images = await self._images.variants(text)
        ref = ref.with_default_tag()
        await self._names.point([str(ref)], *(image.target for image in images))
        self._event("tag", images[0].id, ref.familiar, images[0])

    async def remove(self, text: str, platforms: Sequence[Platform] = (), *,
                     force: bool = False) -> builtins.list[dict[str, str]]:
        """``DELETE /images/{name}``: what was untagged and deleted. Raises NoSuchImage, NoSuchPlatform, Conflict.

        With ``platforms`` just those; the name goes with the last one.
        """
        images = await self._images.variants(text)
        chosen = [_for_platform(images, platform, text) for platform in platforms]
        if len({image.id for image in chosen}) in (0, len(images)):
            return await self._remove(images, text, force)
        for image in chosen:
            check_use(image, self._users.users_of_image(image.id), force=force)
        untagged = []
        for image in chosen:
            names = decide(image, text, (), force=True)
            await self._names.remove_image(image.id, set(map(str, names)))
            # The name itself goes on, for other platforms.
            untagged += [f"{ref.familiar}@{image.target.digest}" for ref in names if ref.tag]
        return [{"Untagged": name} for name in untagged] + await self._deleted(chosen)

    async def discard(self, image: ResolvedImage) -> None:
        """Remove an image that nobody uses, whatever it is called. Raises Conflict where somebody does."""
        await self._remove([image], image.id, force=True)

    async def _remove(self, images: Sequence[ResolvedImage], text: str,
                      force: bool) -> builtins.list[dict[str, str]]:
        """Remove an image with all platforms that its name has, of which the first is the preferred one."""
        users = {image.id: self._users.users_of_image(image.id) for image in images}
        image = images[0]
        untagged = decide(image, text, [user for each in users.values() for user in each], force)
        if is_id_prefix(image.id, text):
            await self._names.remove_image(image.id)
        else:
            await self._names.remove(*map(str, untagged), keep={
                image_id for image_id, held in users.items() if still_used(held, force)})
        for ref in untagged:
            if ref.tag:
                self._event("untag", image.id, image.id, image)
        return [{"Untagged": ref.familiar} for ref in untagged] + await self._deleted(images)

    async def _deleted(self, images: Sequence[ResolvedImage]) -> builtins.list[dict[str, str]]:
        """Collect those of the images that have no name left; what went with each."""
        named = {row.id for row in await self._names.list()}
        gone = [image for image in images if image.id not in named]
        if not gone:
            return []
        collected = set((await self._collect()).snapshots)
        records: builtins.list[dict[str, str]] = []
        for image in gone:
            self._event("delete", image.id, image.id, image)
            records.append({"Deleted": image.id})
            records += [{"Deleted": chain_id} for chain_id in reversed(image.chain) if chain_id in collected]
            collected -= set(image.chain)
        return records

    async def prune(self, wanted: Filters) -> dict[str, Any]:
        """``POST /images/prune``: images without tags, or with ``dangling=false`` all that no container uses."""
        dangling_only = filters.flag(wanted, "dangling") is not False
        if len(wanted.get("until", [])) > 1:
            raise InvalidArgument("more than one until filter specified")
        until = [_moment(text) for text in wanted.get("until", [])]
        images = [image for image in await self._images.all()
                  if not self._users.users_of_image(image.id) and not (dangling_only and image.repo_tags)
                  and not any(image_views.created_ns(image) >= limit for limit in until)
                  and _labels_fit(wanted, image_views.labels_of(image))]
        records = [{"Untagged": ref.familiar} for image in images for ref in self._untagged(image)]
        if images:
            await self._names.remove_images({image.id for image in images})
        gone = await self._deleted(images)
        deleted = {record["Deleted"] for record in gone}
        sizes = {chain_id: size for image in images
                 for chain_id, size in zip(image.chain, image.layer_sizes, strict=True)}
        reclaimed = sum(size for chain_id, size in sizes.items() if chain_id in deleted)
        self._emit("image", "prune", "", {"reclaimed": str(reclaimed)})
        return {"ImagesDeleted": [*records, *gone] or None, "SpaceReclaimed": reclaimed}

    def _untagged(self, image: ResolvedImage) -> builtins.list[Reference]:
        """Tell that an image loses all its names; which those are."""
        references = [row.reference for row in image.names if row.reference is not None]
        for ref in references:
            if ref.tag:
                self._event("untag", image.id, image.id, image)
        return references

    async def pull(self, ref: Reference, platform: Platform | None, credentials: Credentials | None,
                   report: Report) -> None:
        """Pull one tag or digest, or every tag of a repository where ``ref`` names neither, as dockerd does."""
        try:
            if ref.tag or ref.digest:
                await self._pull(ref, platform, credentials, report)
                return
            for tag in await self._puller.tags(ref, credentials):
                await self._pull(Reference(ref.domain, ref.path, tag), platform, credentials, report)
        except (RegistryRefused, RegistryUnreachable):
            raise  # what arrived is kept for the next try
        except BaseException:
            await self._collect()
            raise

    async def _pull(self, ref: Reference, platform: Platform | None, credentials: Credentials | None,
                    report: Report) -> None:
        pulled = await self._puller.pull(ref, platform, credentials, report)
        found = pulled.target.platform
        if platform is not None and found is not None and not found.satisfies(platform):
            report(Progress(status=f"WARNING: image with reference {ref.familiar} was found but its platform "
                                   f"({found}) does not match the specified platform ({platform})"))
        if pulled.updated:
            await self._collect()
        self._event("pull", ref.familiar, ref.familiar_name)

    async def push(self, ref: Reference, credentials: Credentials | None, report: Report,
                   platform: Platform | None = None) -> None:
        await self._pusher.push(ref, credentials, report, platform)
        self._event("push", ref.familiar, ref.familiar_name)

    async def distribution(self, ref: Reference, credentials: Credentials | None) -> dict[str, Any]:
        """``GET /distribution/{name}/json``."""
        descriptor, platforms = await self._puller.describe(ref.with_default_tag(), credentials)
        return {"Descriptor": descriptor, "Platforms": platforms}

    async def search(self, term: str, limit: int, wanted: Filters,
                     credentials: Credentials | None) -> builtins.list[SearchResult]:
        """``GET /images/search``. Raises InvalidArgument, RegistryRefused, RegistryUnreachable."""
        stars = [int(text) if text.isdecimal() else _bad_stars(text) for text in wanted.get("stars", [])]
        official, automated = filters.flag(wanted, "is-official"), filters.flag(wanted, "is-automated")
        return [found for found in await self._puller.search(term, limit, credentials)
                if all(found.star_count >= least for least in stars)
                and official in (None, found.is_official) and automated in (None, found.is_automated)]


class _Platforms:
    """Which images share names: those of one name for several platforms."""

    def __init__(self, images: Sequence[ResolvedImage]) -> None:
        self._by_name: dict[str, builtins.list[ResolvedImage]] = {}
        for image in images:
            for row in image.names:
                self._by_name.setdefault(row.name, []).append(image)

    def of(self, image: ResolvedImage) -> builtins.list[ResolvedImage]:
        """``image`` itself and those that share a name with it."""
        return list({each.id: each for row in image.names for each in self._by_name[row.name]}.values())


def _listed(images: Sequence[ResolvedImage]) -> builtins.list[ResolvedImage]:
    """One image for each name: the preferred platform's stands for the others."""
    return [replace(image, names=names) for image in images
            if (names := tuple(row for row in image.names if row.preferred))]


def _for_platform(images: Sequence[ResolvedImage], platform: Platform, text: str) -> ResolvedImage:
    found = next((image for image in images if image.platform.satisfies(platform)), None)
    if found is None:
        raise NoSuchPlatform(ref=text, found=", ".join(str(image.platform) for image in images), wanted=platform)
    return found


def _labels_fit(wanted: Filters, labels: dict[str, str] | None) -> bool:
    return match_labels(wanted.get("label", []), labels) \
        and not any(match_labels([text], labels) for text in wanted.get("label!", []))


def _bad_stars(text: str) -> int:
    raise filters.InvalidFilterValue(key="stars", value=f"[{text}]")


def _shared_sizes(images: Sequence[ResolvedImage]) -> dict[str, int]:
    """Bytes of each image's layers that others have too."""
    uses = Counter(chain_id for image in images for chain_id in image.chain)
    return {image.id: sum(size for chain_id, size in zip(image.chain, image.layer_sizes, strict=True)
                               if uses[chain_id] > 1) for image in images}


def _moment(text: str) -> int:
    moment = clock.parse_moment(text, time.time_ns())
    if moment is None:
        raise InvalidArgument(f"invalid value for 'until' filter: failed to parse value as time or duration: {text!r}")
    return moment


def _go_pattern(text: str) -> re.Pattern[str]:
    """Go's path.Match as a regular expression: ``*`` and ``?`` do not cross a slash. Raises InvalidArgument."""
    translated = re.sub(r"\\?.", _go_token, text) if "[" not in text else _with_classes(text)
    return re.compile(translated + r"\Z")


def _go_token(match: re.Match[str]) -> str:
    token = match[0]
    return {"*": "[^/]*", "?": "[^/]"}.get(token, re.escape(token[-1]))


def _with_classes(text: str) -> str:
    parts = re.split(r"(\[\^?(?:\\.|[^\]\\])+\])", text)
    if any("[" in part for part in parts[::2]):
        raise InvalidArgument("syntax error in pattern")
    return "".join(part if index % 2 else re.sub(r"\\?.", _go_token, part) for index, part in enumerate(parts))


def _matches(pattern: re.Pattern[str], ref: Reference | None) -> bool:
    if ref is None:
        return False
    return any(pattern.match(text) for text in (ref.familiar, ref.familiar_name, str(ref), ref.name))

"""Finding images by whatever users call them: name, tag, digest, id or the beginning of an id."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from barque.errors import DataLoss, InvalidArgument, NotFound
from barque.image.client.repository import MAX_CONFIG
from barque.image.manifests import Manifests
from barque.image.names import ImageNames, NamedImage
from barque.image.trust.check import remembered
from barque.oci import go_json
from barque.oci import media_types as mt
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.image import ImageConfig, chain_ids
from barque.oci.manifest import MAX_MANIFEST_SIZE, Manifest
from barque.oci.manifest import parse as parse_manifest
from barque.oci.platform import Platform
from barque.oci.reference import InvalidReference, parse
from barque.store.content import ContentStore
from barque.store.snapshots import Snapshots

log = logging.getLogger("barque.image.resolve")
_ID = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})\Z", re.ASCII)


class NoSuchImage(NotFound):
    text = "No such image: {ref}"


class NoSuchPlatform(NotFound):
    text = "image with reference {ref} was found but its platform ({found}) does not match the specified " \
           "platform ({wanted})"


class NotAnImage(DataLoss):
    text = "{digest} is not the manifest of an image"


class IsArtifact(InvalidArgument):
    text = "{ref} is an artifact ({kind}), not an image: containers cannot be made from it"


#: Label of a configuration's blob: the id of the image that it came from by a commit.
PARENT = "parent"


@dataclass(frozen=True)
class ResolvedImage:
    """An image for one platform, or an artifact: then ``config`` is empty and there is no chain of layers.

    ``size``: bytes of file contents of all layers, or of an artifact's blobs. ``names`` are rows, sorted.
    ``updated``: ns since 1970.
    """

    id: str
    config: ImageConfig
    manifest: Manifest
    target: Descriptor
    chain: tuple[str, ...]
    names: tuple[NamedImage, ...]
    layer_sizes: tuple[int, ...]

    @property
    def short_id(self) -> str:
        return Digest(self.id).hex[:12]

    @property
    def chain_id(self) -> str | None:
        """``None`` for an image without layers."""
        return self.chain[-1] if self.chain else None

    @property
    def artifact(self) -> str:
        """What an artifact says that it is; "" for an image."""
        config = self.manifest.config.media_type
        return "" if config in mt.CONFIGS else self.manifest.artifact_type or config

    @property
    def platform(self) -> Platform:
        return Platform(os=self.config.os, architecture=self.config.architecture, variant=self.config.variant)

    @property
    def size(self) -> int:
        if self.artifact:
            return sum(layer.size for layer in self.manifest.layers)
        return sum(self.layer_sizes)

    @property
    def updated(self) -> int:
        return max(name.updated for name in self.names)

    @property
    def repo_tags(self) -> list[str]:
        return [name.reference.familiar for name in self.names if name.reference and name.reference.tag]

    @property
    def repo_digests(self) -> list[str]:
        return [name.reference.familiar for name in self.names if name.reference and name.reference.digest]


class Images:
    def __init__(self, names: ImageNames, content: ContentStore, snapshots: Snapshots) -> None:
        self.manifests = Manifests(content)
        self._names = names
        self._content = content
        self._snapshots = snapshots
        # Both are named by digests, so they never change; what is gone from the store drops out with its name.
        self._known: dict[str, tuple[Manifest, ImageConfig]] = {}

    async def all(self) -> list[ResolvedImage]:
        """Every image once, in no order."""
        grouped = _group(await self._names.list())
        self._known = {digest: known for digest, known in self._known.items()
                       if any(row.target.digest == digest for rows in grouped.values() for row in rows)}
        found = await asyncio.gather(*(self._load_if_whole(rows) for rows in grouped.values()))
        return [image for image in found if image is not None]

    async def signatures(self, image: ResolvedImage) -> list[dict[str, object]]:
        """Those that were verified at the last pull, in docker's JSON."""
        return await remembered(self._content, image.target.digest)

    async def parent(self, image: ResolvedImage) -> str:
        """The image that the container was made from whose commit this is; "" for others."""
        info = await self._content.info(image.id)
        return info.labels.get(PARENT, "") if info else ""

    async def parts(self, image: ResolvedImage) -> dict[str, int]:
        """All that is on the disk of an image: its unpacked layers and its blobs, with their bytes."""
        found = dict(zip(image.chain, image.layer_sizes, strict=True))
        names = [image.target.digest, image.manifest.config.digest, *(layer.digest for layer in image.manifest.layers),
                 *await self.manifests.beside(image.target)]
        for digest in names:
            info = await self._content.info(digest)
            if info is not None:
                found[f"blob {digest}"] = info.size
        return found

    async def _load_if_whole(self, rows: list[NamedImage]) -> ResolvedImage | None:
        """None, and a word in the log, for an image whose documents are lost: the others are to be seen still."""
        try:
            return await self._load(rows)
        except (NotFound, DataLoss) as error:
            log.error("image %s cannot be read, pull it again: %s", rows[0].name, error)
            return None

    async def resolve(self, text: str, platform: Platform | None = None, *, artifacts: bool = False) -> ResolvedImage:
        """The image for ``platform``, or for the one that the name prefers.

        Raises :class:`NoSuchImage` (also where the beginning of an id fits several), :class:`NoSuchPlatform`,
        InvalidReference, and :class:`IsArtifact` unless ``artifacts`` may be found.
        """
        rows = await self._names.list()
        found = _called(text, rows)
        chosen = found[0] if platform is None else next((row for row in found if row.satisfies(platform)), None)
        if chosen is None:
            raise NoSuchPlatform(ref=_told(text), found=_platforms(found), wanted=platform)
        image = await self._load([row for row in rows if row.id == chosen.id])
        if image.artifact and not artifacts:
            raise IsArtifact(ref=_told(text), kind=image.artifact)
        return image

    async def variants(self, text: str) -> list[ResolvedImage]:
        """What is called ``text``, for each platform; the preferred one first. Raises :class:`NoSuchImage`."""
        rows = await self._names.list()
        return [await self._load([row for row in rows if row.id == image_id])
                for image_id in dict.fromkeys(row.id for row in _called(text, rows))]

    async def platforms(self, image: ResolvedImage) -> list[ResolvedImage]:
        """The images that share a name with ``image``, which comes first."""
        grouped = _group(await self._names.list())
        names = {row.name for row in image.names}
        return [image] + [await self._load(rows) for image_id, rows in grouped.items()
                          if image_id != image.id and any(row.name in names for row in rows)]

    async def get(self, image_id: str) -> ResolvedImage | None:
        rows = _group(await self._names.list()).get(image_id)
        return await self._load(rows) if rows else None

    async def _load(self, rows: list[NamedImage]) -> ResolvedImage:
        target = rows[0].target
        if target.digest not in self._known:
            self._known[target.digest] = await self._read(target)
        manifest, config = self._known[target.digest]
        if manifest.config.media_type not in mt.CONFIGS:
            return ResolvedImage(str(rows[0].id), config, manifest, target, (), tuple(rows), ())
        chain = tuple(str(chain_id) for chain_id in chain_ids(config.rootfs.diff_ids))
        sizes = await self._snapshots.sizes(chain)
        return ResolvedImage(str(rows[0].id), config, manifest, target, chain, tuple(rows), sizes)

    async def _read(self, target: Descriptor) -> tuple[Manifest, ImageConfig]:
        document = parse_manifest(await self._content.read(target.digest, MAX_MANIFEST_SIZE), target.media_type)
        if not isinstance(document, Manifest):
            raise NotAnImage(digest=target.digest)
        if document.config.media_type not in mt.CONFIGS:
            return document, ImageConfig()
        return document, go_json.decode(await self._content.read(document.config.digest, MAX_CONFIG), ImageConfig)


def _group(rows: list[NamedImage]) -> dict[str, list[NamedImage]]:
    grouped: dict[str, list[NamedImage]] = {}
    for row in rows:
        grouped.setdefault(str(row.id), []).append(row)
    return grouped


def _find(text: str, rows: Sequence[NamedImage]) -> list[NamedImage]:
    """What is called ``text``: a row for each platform, the preferred one first; or the rows of one image by its id.

    A name wins over the beginning of an id, as with dockerd.
    """
    match = _ID.match(text)
    if match and (text.startswith("sha256:") or len(match[1]) == 64):
        return _by_prefix(match[1], rows)
    reference = parse(text).with_default_tag()
    found = [row for row in rows if row.name == str(reference)]
    if not found and reference.digest:
        found = [row for row in rows if row.reference and row.reference.name == reference.name
                 and reference.digest in (row.reference.digest, row.target.digest)]
    return found or (_by_prefix(match[1], rows) if match else [])


def _called(text: str, rows: Sequence[NamedImage]) -> list[NamedImage]:
    found = _find(text, rows)
    if not found:
        raise NoSuchImage(ref=_told(text))
    return found


def _by_prefix(prefix: str, rows: Sequence[NamedImage]) -> list[NamedImage]:
    found = [row for row in rows if row.id.startswith("sha256:" + prefix)]
    return found if len({row.id for row in found}) == 1 else []


def _platforms(rows: Iterable[NamedImage]) -> str:
    return ", ".join(dict.fromkeys(str(row.target.platform or "unknown") for row in rows))


def _told(text: str) -> str:
    try:
        return parse(text).with_default_tag().familiar
    except InvalidReference:
        return text


def is_id_prefix(image_id: str, text: str) -> bool:
    """Whether ``text`` names an image by its id rather than by a name."""
    return image_id.startswith(text) or Digest(image_id).hex.startswith(text)

"""Online garbage collection: pushes and pulls go on meanwhile.

One repository after the other: tags and manifests that the rules let go, then blobs that no manifest of the repository
names; at last contents that no repository holds. What was pushed or asked for within ``grace`` seconds stays: a client
first sends the layers and names them afterwards.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from barque.errors import BarqueError
from barque.oci.digest import Digest
from barque.oci.manifest import Index, parse
from barque.registry.retention import Known, Rule, decide, rules_for
from barque.registry.storage.base import Storage

log = logging.getLogger("barque.registry.gc")
#: How long a client may take between its first layer and its manifest, in seconds.
GRACE = 3600.0
#: Uploads that nobody touched for so long are given up, in seconds.
UPLOAD_LIFETIME = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Policy:
    rules: tuple[Rule, ...] = ()
    grace: float = GRACE
    upload_lifetime: float = UPLOAD_LIFETIME


@dataclass
class Report:
    """``size``: bytes that became free."""

    tags: int = 0
    manifests: int = 0
    blobs: int = 0
    contents: int = 0
    size: int = 0
    uploads: int = 0
    skipped: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (f"removed {self.tags} tags, {self.manifests} manifests, {self.blobs} blobs of repositories, "
                f"{self.contents} contents ({self.size} bytes), {self.uploads} uploads")


async def known_manifests(storage: Storage, repository: str) -> dict[Digest, Known]:
    """What each manifest of the repository names. Raises BarqueError if one cannot be read: nothing may go then."""
    found = {}
    for entry in await storage.manifests.entries(repository):
        stored = await storage.manifests.get(repository, entry.digest)
        if stored is None:
            continue
        document = parse(stored.body, stored.media_type)
        subject = document.subject.checked_digest if document.subject is not None else None
        if isinstance(document, Index):
            children = tuple(child.checked_digest for child in document.manifests)
            found[entry.digest] = Known(entry.digest, entry.used, children, (), subject)
        else:
            blobs = tuple(part.checked_digest for part in (document.config, *document.layers))
            found[entry.digest] = Known(entry.digest, entry.used, (), blobs, subject)
    return found


async def collect(storage: Storage, policy: Policy) -> Report:
    report = Report()
    for repository in await storage.manifests.repositories():
        try:
            async with storage.exclusive(repository):
                await _collect_repository(storage, repository, policy, report)
        except BarqueError as error:
            log.error("repository %s is not collected: %s", repository, error)
            report.skipped.append(repository)
    freed = await storage.drop_unused(time.time() - policy.grace, time.time() - policy.upload_lifetime)
    report.contents, report.uploads = freed.contents, freed.uploads
    report.size += freed.size
    return report


async def _collect_repository(storage: Storage, repository: str, policy: Policy, report: Report) -> None:
    now = time.time()
    manifests = await known_manifests(storage, repository)
    tagged = await storage.manifests.tagged(repository)
    decision = decide(manifests, tagged, rules_for(repository, policy.rules), now)
    for tag in decision.tags:
        report.tags += await storage.manifests.untag(repository, tag)
    for known in decision.manifests:
        await storage.manifests.delete(repository, known.digest, known.subject)
        report.manifests += 1
    used = {digest for known in decision.kept for digest in known.blobs}
    for entry in await storage.blobs.entries(repository):
        if entry.digest not in used and entry.used < now - policy.grace:
            freed = await storage.blobs.delete(repository, entry.digest)
            report.blobs += freed is not None
            report.size += freed or 0

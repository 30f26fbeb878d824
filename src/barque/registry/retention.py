"""Which tags and manifests of a repository may go: a pure decision over what the repository holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from barque.oci.digest import Digest
from barque.registry.storage.base import Tagged


@dataclass(frozen=True, slots=True)
class Rule:
    """For repositories that match the pattern ``repositories``; ages in seconds, ``None``: never.

    ``untagged``: manifests without a tag go after so long. ``keep_tags``: only so many of the tags that match ``tags``
    stay, the youngest. ``tag_age``: tags that match go after so long.
    """

    repositories: str = "*"
    untagged: float | None = None
    tags: str = "*"
    keep_tags: int | None = None
    tag_age: float | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """A manifest: when it was pushed, and what it names: ``children`` (manifests), ``blobs``, ``subject``."""

    digest: Digest
    at: float
    children: tuple[Digest, ...] = ()
    blobs: tuple[Digest, ...] = ()
    subject: Digest | None = None


@dataclass(slots=True)
class Decision:
    tags: list[str] = field(default_factory=list)
    manifests: list[Known] = field(default_factory=list)
    kept: list[Known] = field(default_factory=list)


def rules_for(repository: str, rules: Iterable[Rule]) -> list[Rule]:
    return [rule for rule in rules if fnmatchcase(repository, rule.repositories)]


def decide(manifests: Mapping[Digest, Known], tagged: list[Tagged], rules: list[Rule], now: float) -> Decision:
    """What to remove. Without a rule on untagged manifests each manifest stays.

    A manifest also stays while an index that stays names it, or while the subject that it refers to stays: signatures
    and attestations live as long as their image.
    """
    decision = Decision(tags=_expired_tags(tagged, rules, now))
    gone = set(decision.tags)
    ages = [rule.untagged for rule in rules if rule.untagged is not None]
    if not ages:
        decision.kept = list(manifests.values())
        return decision
    oldest = now - min(ages)
    roots = {entry.digest for entry in tagged if entry.tag not in gone}
    roots |= {known.digest for known in manifests.values() if known.at > oldest}
    kept = _reachable(manifests, roots)
    decision.kept = [known for digest, known in manifests.items() if digest in kept]
    decision.manifests = [known for digest, known in manifests.items() if digest not in kept]
    return decision


def _expired_tags(tagged: list[Tagged], rules: list[Rule], now: float) -> list[str]:
    expired: set[str] = set()
    for rule in rules:
        matching = sorted((entry for entry in tagged if fnmatchcase(entry.tag, rule.tags)),
                          key=lambda entry: entry.at, reverse=True)
        if rule.keep_tags is not None:
            expired |= {entry.tag for entry in matching[rule.keep_tags:]}
        if rule.tag_age is not None:
            expired |= {entry.tag for entry in matching if entry.at <= now - rule.tag_age}
    return sorted(expired)


def _reachable(manifests: Mapping[Digest, Known], roots: set[Digest]) -> set[Digest]:
    referrers: dict[Digest, list[Digest]] = {}
    for known in manifests.values():
        if known.subject is not None:
            referrers.setdefault(known.subject, []).append(known.digest)
    kept: set[Digest] = set()
    waiting = list(roots)
    while waiting:
        digest = waiting.pop()
        if digest in kept or digest not in manifests:
            continue
        kept.add(digest)
        waiting += manifests[digest].children
        waiting += referrers.get(digest, [])
    return kept

"""Asking for the signatures that the policy wants of an image, before anything of it is fetched."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from barque.errors import BarqueError, PermissionDenied
from barque.image.client.repository import Repository
from barque.image.trust import cosign, notation
from barque.image.trust.keys import BadSignature
from barque.image.trust.policy import Accept, Notation, Policy, Reject, Sigstore
from barque.oci.digest import Digest
from barque.oci.reference import Reference
from barque.store.content import ContentStore

#: Label of a manifest: the signatures that were verified, as the API shows them.
_LABEL = "org.barque.signatures"


class NotTrusted(PermissionDenied):
    text = "the signature policy does not let {ref} be pulled: {reason}"


class TrustCheck:
    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def verified(self, repository: Repository, ref: Reference,
                       digests: Sequence[Digest]) -> list[dict[str, object]]:
        """The signatures that meet the policy, one for each requirement that wants one.

        ``digests``: what the name stands for at the registry, then the manifest of the platform; either may be signed.
        Raises :class:`NotTrusted`, RegistryUnreachable.
        """
        found = []
        unique = list(dict.fromkeys(digests))
        for requirement in self._policy.requirements(ref):
            try:
                if isinstance(requirement, Reject):
                    raise NotTrusted(ref=ref.familiar, reason="it is rejected")
                if isinstance(requirement, Sigstore):
                    found.append(await cosign.verify(repository, ref, unique, requirement))
                elif isinstance(requirement, Notation):
                    found.append(await notation.verify(repository, unique, requirement))
                else:
                    assert isinstance(requirement, Accept)
            except BadSignature as error:
                raise NotTrusted(ref=ref.familiar, reason=error) from None
        return found


async def remember(content: ContentStore, digest: str, signatures: list[dict[str, object]]) -> None:
    """Note at a stored manifest what was verified of it, instead of what was before."""
    text = msgspec.json.encode(signatures).decode() if signatures else ""
    known = await content.info(digest)
    if known is not None and known.labels.get(_LABEL, "") != text:
        await content.label(digest, _LABEL, text)


async def remembered(content: ContentStore, digest: str) -> list[dict[str, object]]:
    """What :func:`remember` noted."""
    try:
        info = await content.info(digest)
        return msgspec.json.decode(info.labels.get(_LABEL, "[]"), type=list[dict[str, object]]) if info else []
    except (BarqueError, msgspec.DecodeError):
        return []

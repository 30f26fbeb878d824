"""Content descriptors (OCI image-spec, descriptor.md)."""

from __future__ import annotations

import msgspec

from barque.oci.digest import Digest
from barque.oci.platform import Platform


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", kw_only=True):
    """Names a blob: media type, digest and exact size in bytes. ``digest`` is not checked on decode."""

    media_type: str
    digest: str
    size: int
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    platform: Platform | None = None
    artifact_type: str = ""
    data: str = ""

    @property
    def checked_digest(self) -> Digest:
        """The digest, proven well formed; raises :class:`barque.oci.digest.InvalidDigest`."""
        return Digest.parse(self.digest)

"""Content digests: ``algorithm:hex`` (OCI image-spec, descriptor.md#digests)."""

from __future__ import annotations

import hashlib
import re

from barque.errors import InvalidArgument

#: Registered algorithms -> number of lower-case hex digits.
ALGORITHMS = {"sha256": 64, "sha384": 96, "sha512": 128}
_GRAMMAR = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+\Z")


class InvalidDigest(InvalidArgument):
    text = "invalid digest {value!r}: {reason}"


class Digest(str):
    """A digest that is known to be well formed, so that its hex part is safe as a file name.

    Only the registered algorithms are accepted. Make one with :meth:`parse` or :meth:`of`.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, value: str) -> Digest:
        """Check ``value``; raises :class:`InvalidDigest`."""
        if not _GRAMMAR.match(value):
            raise InvalidDigest(value=value, reason="want algorithm:hex")
        algorithm, _, encoded = value.partition(":")
        length = ALGORITHMS.get(algorithm)
        if length is None:
            raise InvalidDigest(value=value, reason="unsupported algorithm")
        if len(encoded) != length or not re.fullmatch(r"[0-9a-f]+", encoded):
            raise InvalidDigest(value=value, reason=f"want {length} lower-case hex digits")
        return cls(value)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        return cls(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        return self.partition(":")[2]

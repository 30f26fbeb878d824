"""JSON Web Tokens: signed here with HS256, or from elsewhere with RS256 or ES256 (RFC 7515, 7517, 7518).

Checking a signature needs public values only, so the arithmetic here has no secret to leak by its timing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Any, Protocol

import msgspec

from barque.errors import InvalidArgument

_MAX_TOKEN = 64 << 10
#: DER of "this is a SHA-256 digest" (RFC 8017, 9.2).
_SHA256_PREFIX = bytes.fromhex("3031300d060960864801650304020105000420")


class InvalidKeys(InvalidArgument):
    text = "key set: {reason}"


class InvalidToken(Exception):
    """Malformed, of an unknown key, or not signed by it."""


def _b64(text: str) -> bytes:
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidToken("not base64url") from None


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


class Key(Protocol):
    algorithm: str

    def verify(self, data: bytes, signature: bytes) -> bool: ...


class Secret:
    """HS256; the one kind that can also sign."""

    algorithm = "HS256"

    def __init__(self, key: bytes) -> None:
        if len(key) < 32:
            raise InvalidKeys(reason="a secret needs at least 32 bytes")
        self._key = key

    def _sign(self, data: bytes) -> bytes:
        return hmac.digest(self._key, data, hashlib.sha256)

    def verify(self, data: bytes, signature: bytes) -> bool:
        return hmac.compare_digest(self._sign(data), signature)

    def token(self, claims: dict[str, Any]) -> str:
        header = msgspec.json.encode({"alg": self.algorithm, "typ": "JWT"})
        data = f"{_text(header)}.{_text(msgspec.json.encode(claims))}"
        return f"{data}.{_text(self._sign(data.encode()))}"


class RsaKey:
    algorithm = "RS256"

    def __init__(self, modulus: int, exponent: int) -> None:
        if modulus.bit_length() < 2048 or exponent < 3 or exponent % 2 == 0:
            raise InvalidKeys(reason="an RSA key needs at least 2048 bits and an odd exponent")
        self._modulus, self._exponent = modulus, exponent
        self._size = (modulus.bit_length() + 7) // 8

    def verify(self, data: bytes, signature: bytes) -> bool:
        number = int.from_bytes(signature)
        if len(signature) != self._size or number >= self._modulus:
            return False
        found = pow(number, self._exponent, self._modulus).to_bytes(self._size)
        tail = b"\0" + _SHA256_PREFIX + hashlib.sha256(data).digest()
        # The padding is rebuilt whole and compared, never parsed: parsers of it were forged (CVE-2006-4339).
        return found == b"\0\1" + b"\xff" * (self._size - len(tail) - 2) + tail


Point = tuple[int, int] | None


class P256Key:
    """ECDSA over NIST P-256 (FIPS 186-5)."""

    algorithm = "ES256"
    _P = 2**256 - 2**224 + 2**192 + 2**96 - 1
    _N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    _B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    _G = (0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
          0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5)

    def __init__(self, x: int, y: int) -> None:
        if not (0 <= x < self._P and 0 <= y < self._P) or (y * y - (x * x * x - 3 * x + self._B)) % self._P:
            raise InvalidKeys(reason="the point is not on the curve P-256")
        self._point = (x, y)

    def verify(self, data: bytes, signature: bytes) -> bool:
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
        if len(signature) != 64 or not (0 < r < self._N and 0 < s < self._N):
            return False
        inverse = pow(s, -1, self._N)
        number = int.from_bytes(hashlib.sha256(data).digest())
        point = self._add(self._times(number * inverse % self._N, self._G),
                          self._times(r * inverse % self._N, self._point))
        return point is not None and point[0] % self._N == r

    def _add(self, one: Point, two: Point) -> Point:
        if one is None or two is None:
            return one or two
        if one[0] == two[0]:
            if (one[1] + two[1]) % self._P == 0:
                return None
            slope = 3 * (one[0] * one[0] - 1) * pow(2 * one[1], -1, self._P)
        else:
            slope = (two[1] - one[1]) * pow(two[0] - one[0], -1, self._P)
        x = (slope * slope - one[0] - two[0]) % self._P
        return x, (slope * (one[0] - x) - one[1]) % self._P

    def _times(self, factor: int, point: Point) -> Point:
        result: Point = None
        while factor:
            if factor & 1:
                result = self._add(result, point)
            point = self._add(point, point)
            factor >>= 1
        return result


class _Jwk(msgspec.Struct):
    kty: str
    kid: str = ""
    crv: str = ""
    n: str = ""
    e: str = ""
    x: str = ""
    y: str = ""


class _KeySet(msgspec.Struct):
    keys: list[_Jwk]


class _Header(msgspec.Struct):
    alg: str
    kid: str = ""


def load_key_set(data: bytes) -> dict[str, Key]:
    """Public keys of a JWK set by their ``kid``; raises InvalidKeys for kinds that are not supported."""
    try:
        found = msgspec.json.decode(data, type=_KeySet)
        return {jwk.kid: _key(jwk) for jwk in found.keys}
    except (msgspec.DecodeError, InvalidToken) as error:
        raise InvalidKeys(reason=error) from None


def _key(jwk: _Jwk) -> Key:
    if jwk.kty == "RSA":
        return RsaKey(int.from_bytes(_b64(jwk.n)), int.from_bytes(_b64(jwk.e)))
    if jwk.kty == "EC" and jwk.crv == "P-256":
        return P256Key(int.from_bytes(_b64(jwk.x)), int.from_bytes(_b64(jwk.y)))
    raise InvalidKeys(reason=f"unsupported key type {jwk.kty} {jwk.crv}".strip())


def verified_claims(token: str, keys: dict[str, Key]) -> dict[str, Any]:
    """The claims of a token that one of ``keys`` signed; raises InvalidToken. Times and audience are not looked at.

    The algorithm is the key's, never the token's choice ("none", or a public key taken for a secret).
    """
    parts = token.split(".")
    if len(parts) != 3 or len(token) > _MAX_TOKEN:
        raise InvalidToken("malformed")
    try:
        header = msgspec.json.decode(_b64(parts[0]), type=_Header)
        claims = msgspec.json.decode(_b64(parts[1]), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidToken("malformed") from None
    key = keys.get(header.kid)
    if key is None or key.algorithm != header.alg:
        raise InvalidToken("unknown key")
    if not key.verify(f"{parts[0]}.{parts[1]}".encode(), _b64(parts[2])):
        raise InvalidToken("bad signature")
    return claims

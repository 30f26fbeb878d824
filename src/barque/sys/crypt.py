"""Password hashes by crypt(3) of libxcrypt: bcrypt, yescrypt, SHA-512 crypt, whatever the library knows."""

from __future__ import annotations

import ctypes
import hmac
from functools import cache

#: At least sizeof(struct crypt_data): 32 KiB in libxcrypt, 128 KiB in the old glibc.
_CRYPT_DATA_SIZE = 132 << 10


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt_r.restype = ctypes.c_char_p
    library.crypt_r.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p)
    return library


def verify(password: str, hashed: str) -> bool:
    """Whether ``hashed`` is a hash of ``password``. Slow on purpose; raises OSError where libcrypt is missing."""
    found = _library().crypt_r(password.encode(), hashed.encode(), ctypes.create_string_buffer(_CRYPT_DATA_SIZE))
    # Failure is NULL or a text that begins with an asterisk, which no hash does.
    return found is not None and not found.startswith(b"*") and hmac.compare_digest(found, hashed.encode())

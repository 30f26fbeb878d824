"""Ids and names of containers: 64 hex digits, and ``adjective_surname`` where the client gives no name."""

from __future__ import annotations

import random
import re
import secrets

_VALID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z", re.ASCII)
_HEX = re.compile(r"[0-9a-f]+\Z")

ADJECTIVES = ["able", "airy", "amber", "ample", "apt", "azure", "bold", "brave", "breezy", "brisk", "calm", "candid",
              "cheery", "civil", "clear", "clever", "coral", "cosy", "crisp", "curious", "daring", "deft", "eager",
"earnest", "easy", "fair", "fleet", "fond", "frank", "fresh", "gentle", "glad", "golden", "grand", "hardy", "hearty",
"humble", "ivory", "jolly", "keen", "kind", "lively", "loyal", "lucid", "mellow", "merry", "mild", "neat", "nimble",
"noble", "patient", "placid", "plucky", "polite", "prime", "proud", "quick", "quiet", "ready", "robust", "rosy",
"rustic", "serene", "sharp", "silent", "silver", "sincere", "sleek", "smart", "snug", "sober", "solid", "spry",
"stable", "steady", "stout", "sunny", "swift", "tender", "tidy", "tranquil", "trusty", "upbeat", "valiant", "vivid",
"warm", "wise", "witty", "zesty"]

SURNAMES = ["abel", "agnesi", "ampere", "archimedes", "avogadro", "banach", "bell", "bernoulli", "bohr", "boole",
            "bose", "brahmagupta", "cantor", "carson", "cauchy", "chandrasekhar", "curie", "dalton", "darwin",
"dijkstra", "dirac", "einstein", "erdos", "euclid", "euler", "fermat", "fermi", "feynman", "fibonacci", "fourier",
"franklin", "galileo", "galois", "gauss", "germain", "godel", "goodall", "hamilton", "hawking", "heisenberg", "hertz",
"hilbert", "hopper", "hubble", "hypatia", "johnson", "joule", "kepler", "khayyam", "kovalevskaya", "lagrange",
"lamarr", "laplace", "lavoisier", "leavitt", "leibniz", "lovelace", "maxwell", "mendel", "mendeleev", "mirzakhani",
"newton", "noether", "pascal", "pasteur", "pauling", "planck", "poincare", "ramanujan", "riemann", "ritchie", "rubin",
"rutherford", "sagan", "shannon", "tesla", "turing", "vaughan", "volta", "watt", "wiles", "wu", "yalow"]


def new_id() -> str:
    """64 lower-case hex digits, not all of the first twelve decimal: tools take such a prefix for a number."""
    while (value := secrets.token_hex(32))[:12].isdecimal():
        pass
    return value


def candidate(retry: int) -> str:
    """A random ``adjective_surname``; after a few collisions with a digit behind."""
    name = f"{random.choice(ADJECTIVES)}_{random.choice(SURNAMES)}"
    return f"{name}{random.randrange(10)}" if retry > 5 else name


def valid(name: str) -> bool:
    """Whether ``name``, without its leading slash, may name a container."""
    return bool(_VALID.match(name))


def is_id_prefix(text: str) -> bool:
    return bool(_HEX.match(text))

"""Decisions of the registry that need no server: retention, rates, tokens, the configuration."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from barque.oci.digest import Digest
from barque.registry import config
from barque.registry.auth import Access, Grant, Permissions
from barque.registry.errors import RegistryError
from barque.registry.jwt import InvalidKeys, InvalidToken, P256Key, Secret, load_key_set, verified_claims
from barque.registry.limits import RateLimiter
from barque.registry.metrics import Metrics
from barque.registry.retention import Known, Rule, decide
from barque.registry.storage.base import Tagged
from barque.registry.tokens import TokenCheck, parse_scope

DAY = 86400.0


def name(text: str) -> Digest:
    return Digest.of(text.encode())


def known(text: str, at: float = 0.0, children: tuple[str, ...] = (), subject: str = "") -> Known:
    return Known(name(text), at, tuple(map(name, children)), (), name(subject) if subject else None)


def gone(manifests: list[Known], tagged: list[Tagged], *rules: Rule, now: float = 100 * DAY) -> set[Digest]:
    found = decide({each.digest: each for each in manifests}, tagged, list(rules), now)
    assert {each.digest for each in found.kept} | {each.digest for each in found.manifests} \
        == {each.digest for each in manifests}
    return {each.digest for each in found.manifests}


def test_nothing_goes_without_a_rule() -> None:
    assert gone([known("a")], []) == set()
    assert gone([known("a")], [], Rule(keep_tags=1)) == set()


def test_untagged_go_when_they_are_old() -> None:
    manifests = [known("old"), known("young", at=99 * DAY), known("tagged")]
    assert gone(manifests, [Tagged("v1", name("tagged"), 0)], Rule(untagged=7 * DAY)) == {name("old")}


def test_children_and_referrers_live_as_long_as_what_needs_them() -> None:
    manifests = [known("index", children=("child", "absent")), known("child"), known("sig", subject="child"),
                 known("sig of sig", subject="sig"), known("orphan", subject="was deleted")]
    assert gone(manifests, [Tagged("v1", name("index"), 0)], Rule(untagged=DAY)) == {name("orphan")}
    assert len(gone(manifests, [], Rule(untagged=DAY))) == 5


def test_manifests_that_name_each_other_are_no_reason_to_stay_nor_to_hang() -> None:
    manifests = [known("a", children=("b",)), known("b", children=("a",))]
    assert gone(manifests, [], Rule(untagged=DAY)) == {name("a"), name("b")}


def test_tags_go_by_number_and_by_age() -> None:
    tagged = [Tagged(f"ci-{day}", name("x"), day * DAY) for day in range(90, 100)] + [Tagged("v1", name("y"), 0)]
    found = decide({}, tagged, [Rule(tags="ci-*", keep_tags=3)], 100 * DAY)
    assert found.tags == [f"ci-{day}" for day in range(90, 97)]
    assert decide({}, tagged, [Rule(tags="ci-*", tag_age=2 * DAY)], 100 * DAY).tags \
        == [f"ci-{day}" for day in range(90, 99)]


def test_rate_limit() -> None:
    now = [0.0]
    limiter = RateLimiter(2.0, 3, clock=lambda: now[0])
    for _ in range(3):
        limiter.spend("me")
    limiter.spend("you")
    with pytest.raises(RegistryError) as refused:
        limiter.spend("me")
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "1")
    now[0] = 0.5
    limiter.spend("me")


def test_permissions() -> None:
    rules = Permissions((Grant("ann", "team/*", frozenset({"pull", "push"})), Grant("ci-*", "*", frozenset({"*"}))),
                        anonymous_pull=True)
    assert rules.allow("ann", Access("repository", "team/deep/app", "push"))
    assert not rules.allow("ann", Access("repository", "team/app", "delete"))
    assert not rules.allow("ann", Access("repository", "other", "push"))
    assert rules.allow("ci-7", Access("repository", "other", "delete"))
    assert rules.allow("", Access("repository", "other", "pull"))
    assert not rules.allow("", Access("repository", "other", "push"))
    everybody = Permissions()
    assert everybody.allow("ann", Access("repository", "x", "delete"))
    assert not everybody.allow("", Access("repository", "x", "pull"))
    own = Permissions((Grant("ann", "team/*", frozenset({"pull"})),))
    assert not own.allow("ann", Access("registry", "catalog", "*"))


def claims(**changed: Any) -> dict[str, Any]:
    now = time.time()
    return {"iss": "barque", "sub": "ann", "aud": "registry", "nbf": now, "exp": now + 60,
            "access": [{"type": "repository", "name": "app", "actions": ["pull"]}], **changed}


def test_token_of_ours() -> None:
    secret = Secret(b"k" * 32)
    check = TokenCheck({"": secret}, "barque", "registry")
    holder = check(secret.token(claims()))
    assert holder is not None
    assert (holder.user, set(holder)) == ("ann", {Access("repository", "app", "pull")})
    for bad in ({"exp": time.time() - 1}, {"nbf": time.time() + 600}, {"iss": "x"}, {"aud": "x"}, {"access": "all"}):
        assert check(secret.token(claims(**bad))) is None
    token = secret.token(claims())
    assert check(Secret(b"x" * 32).token(claims())) is None
    head, body, signature = token.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    for forged in (f"{none}.{body}.", f"{none}.{body}.{signature}", f"{head}.{body}", "", "a.b.c", "." * 10):
        assert check(forged) is None


def jwk(document: dict[str, Any]) -> bytes:
    return json.dumps({"keys": [document]}).encode()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


#: RFC 7515, appendix A.3: a token signed with ES256, and its key.
RFC_ES256 = ("eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290"
             "Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q")
RFC_ES256_KEY = {"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                 "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}
#: RFC 7515, appendix A.2: the same with RS256.
RFC_RS256 = ("eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290"
             "Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5ju"
             "jGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB"
             "_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXL"
             "IhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw")
RFC_RS256_KEY = {"kty": "RSA", "e": "AQAB", "n": (
    "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNM"
    "sD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmt"
    "dVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ")}


@pytest.mark.parametrize(("token", "key"), [(RFC_ES256, RFC_ES256_KEY), (RFC_RS256, RFC_RS256_KEY)])
def test_signatures_of_others(token: str, key: dict[str, str]) -> None:
    keys = load_key_set(jwk(key))
    assert verified_claims(token, keys)["iss"] == "joe"
    head, body, signature = token.split(".")
    other = b64(b'{"iss":"eve"}')
    flipped = b64(bytes(byte ^ (index == 5) for index, byte in enumerate(base64.urlsafe_b64decode(signature + "=="))))
    for forged in (f"{head}.{other}.{signature}", f"{head}.{body}.{flipped}", f"{head}.{body}.", f"{head}.{body}.AAAA"):
        with pytest.raises(InvalidToken):
            verified_claims(forged, keys)


def test_public_key_is_no_secret() -> None:
    """A token that calls itself HS256 and is "signed" with the text of the public key: the classic confusion."""
    keys = load_key_set(jwk(RFC_RS256_KEY))
    for material in (json.dumps(RFC_RS256_KEY).encode(), base64.urlsafe_b64decode(RFC_RS256_KEY["n"] + "==")):
        with pytest.raises(InvalidToken):
            verified_claims(Secret(material).token({"iss": "eve"}), keys)


def test_bad_keys() -> None:
    for document in ({"kty": "oct", "k": "AA"}, {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
                     {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, {"kty": "EC", "crv": "P-521"}):
        with pytest.raises(InvalidKeys):
            load_key_set(jwk(document))
    with pytest.raises(InvalidKeys):
        Secret(b"short")
    assert not P256Key(*P256Key._G).verify(b"x", b"\0" * 64)


def test_scopes() -> None:
    assert parse_scope("repository:host:5000/app:pull,push registry:catalog:*") == [
        Access("repository", "host:5000/app", "pull"), Access("repository", "host:5000/app", "push"),
        Access("registry", "catalog", "*")]
    assert {access.action for access in parse_scope("repository:app:*")} == {"pull", "push", "delete"}
    with pytest.raises(RegistryError):
        parse_scope("nonsense")


def test_configuration() -> None:
    found = config.load('listen = ":5000"\n[storage]\nroot = "/data"\n[[quota]]\nrepositories = "*"\nsize = "10GiB"')
    assert (found.listen, found.storage.root, config.size(found.quota[0].size)) == (":5000", "/data", 10 << 30)
    for text in ("lisen = 'x'", "[storage.s3]\nbucket = 'b'", "listen = 5000", "["):
        with pytest.raises(config.InvalidConfig):
            config.load(text)
    assert (config.seconds("90s"), config.seconds("1.5h"), config.size("500 MB")) == (90, 5400, 500_000_000)
    for text in ("5", "5y", "-5s", "٣s"):
        with pytest.raises(config.InvalidConfig):
            config.seconds(text)


def test_metrics_are_what_prometheus_reads() -> None:
    metrics = Metrics()
    for seconds in (0.0005, 0.2, 60.0):
        metrics.observe("GET", "/v2/", 200, seconds)
    metrics.add("pull_events")
    text = metrics.text()
    assert 'barque_registry_requests_total{method="GET",route="/v2/",code="200"} 3' in text
    assert 'barque_registry_request_seconds_bucket{route="/v2/",le="0.25"} 2' in text
    assert 'barque_registry_request_seconds_bucket{route="/v2/",le="+Inf"} 3' in text
    assert 'barque_registry_request_seconds_sum{route="/v2/"} 60.200500' in text
    assert "barque_registry_pull_events_total 1" in text

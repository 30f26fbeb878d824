"""From the configuration to the objects that do the work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from barque.registry import config as config_of
from barque.registry.app import Settings
from barque.registry.collect import Policy
from barque.registry.config import Auth, Config, InvalidConfig, Tls, read_text, seconds, size
from barque.registry.events import Receiver
from barque.registry.limits import RateLimiter
from barque.registry.names import valid_name
from barque.registry.quotas import Quota
from barque.registry.retention import Rule
from barque.registry.storage.base import Storage
from barque.registry.storage.filesystem import FilesystemStorage

# What a plain registry over a directory never needs is imported by those who do: it would take most of the memory.
if TYPE_CHECKING:
    import ssl

    from barque.registry.auth import Authenticator, PasswordFile, Permissions
    from barque.registry.proxy import Upstream
    from barque.registry.tokens import TokenServer

_ACTIONS = frozenset({"pull", "push", "delete", "*"})
_EVENTS = frozenset({"pull", "push", "mount", "delete"})


def storage_of(config: Config) -> Storage:
    storage = own_storage_of(config)
    if not config.upstream:
        return storage
    from barque.image.client.endpoints import Registry
    from barque.image.client.hosts import HostConfig
    from barque.image.client.transport import Transport
    from barque.registry.proxy import CachingStorage

    if sum(upstream.default for upstream in config.upstream) > 1:
        raise InvalidConfig(reason="more than one upstream is the default")
    hosts = HostConfig(insecure=tuple(upstream.host for upstream in config.upstream if upstream.insecure))
    return CachingStorage(storage, tuple(_upstream(each) for each in config.upstream), Registry(Transport(hosts)),
                          spool=config.storage.root or None)


def _upstream(config: config_of.Upstream) -> Upstream:
    from barque.image.client.auth import Credentials
    from barque.registry.proxy import Upstream

    if not valid_name(config.prefix):
        raise InvalidConfig(reason=f"upstream prefix {config.prefix!r} is no repository name")
    credentials = None
    if config.username:
        credentials = Credentials(username=config.username, password=config.password)
    return Upstream(config.prefix, config.host, credentials, config.default, seconds(config.tag_life),
                    size(config.size) if config.size else None)


def own_storage_of(config: Config) -> Storage:
    """What is kept here: own repositories, and copies of others as far as they have come."""
    if bool(config.storage.root) == bool(config.storage.s3):
        raise InvalidConfig(reason="give either a directory (storage.root) or an object store (storage.s3)")
    s3 = config.storage.s3
    if s3 is None:
        return FilesystemStorage(config.storage.root)
    from barque.registry.storage.s3.client import S3
    from barque.registry.storage.s3.sigv4 import Signer
    from barque.registry.storage.s3.storage import S3Storage

    if not s3.endpoint.startswith(("http://", "https://")):
        raise InvalidConfig(reason=f"storage.s3.endpoint {s3.endpoint!r} is no URL")
    signer = Signer(s3.access_key, s3.secret_key, s3.region)
    return S3Storage(S3(s3.endpoint, s3.bucket, signer, s3.prefix), redirect=s3.redirect)


def address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidConfig(reason=f"invalid address {text!r}: want HOST:PORT")
    return host.strip("[]"), int(port)


def tls_of(config: Config) -> ssl.SSLContext | None:
    if config.tls is None:
        return None
    import ssl

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_tls(context, config.tls)
    return context


def load_tls(context: ssl.SSLContext, tls: Tls) -> None:
    """For handshakes from now on; if something is wrong with the files, ``context`` stays as it is."""
    import ssl

    # A context that was given a certificate and then a key of another one would have lost both.
    for each in (ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), context):
        each.load_cert_chain(tls.cert, tls.key)
        if tls.client_ca:
            each.load_verify_locations(tls.client_ca)
            each.verify_mode = ssl.CERT_REQUIRED


def policy_of(config: Config) -> Policy:
    rules = tuple(Rule(repositories=rule.repositories, untagged=seconds(rule.untagged) if rule.untagged else None,
                       tags=rule.tags, keep_tags=rule.keep_tags,
                       tag_age=seconds(rule.tag_age) if rule.tag_age else None) for rule in config.retention)
    return Policy(rules, seconds(config.gc.grace), seconds(config.gc.uploads))


def settings_of(config: Config) -> Settings:
    authenticator, users, token_server = _authorisation(config)
    limits = config.limits
    return Settings(
        authenticator=authenticator, users=users, token_server=token_server, read_only=config.read_only,
        sparse=config.sparse_manifests, pages=config.web_page, log_requests=config.access_log,
        redirect=config.storage.s3 is not None and config.storage.s3.redirect,
        limiter=RateLimiter(limits.requests_per_second, limits.burst) if limits is not None else None,
        quotas=tuple(Quota(rule.repositories, size(rule.size)) for rule in config.quota),
        receivers=tuple(_receiver(hook.url, hook.actions, hook.headers) for hook in config.webhook))


def _receiver(url: str, actions: list[str], headers: dict[str, str]) -> Receiver:
    unknown = set(actions) - _EVENTS
    if unknown or not url.startswith(("http://", "https://")):
        raise InvalidConfig(reason=f"webhook {url}: want an http(s) URL and actions of {', '.join(sorted(_EVENTS))}")
    return Receiver(url, frozenset(actions), headers)


def _secret(path: str) -> bytes:
    """Without a file it lives as long as the server: enough for one front end, whose clients fetch anew."""
    if not path:
        return os.urandom(32)
    with open(path, "rb") as file:
        return file.read()


def _permissions(config: Config, auth: Auth) -> Permissions:
    from barque.registry.auth import Grant, Permissions

    for rule in config.access:
        if not set(rule.actions) <= _ACTIONS:
            raise InvalidConfig(reason=f"access of {rule.user}: want actions of {', '.join(sorted(_ACTIONS))}")
    grants = tuple(Grant(rule.user, rule.repositories, frozenset(rule.actions)) for rule in config.access)
    return Permissions(grants, anonymous_pull=auth.anonymous_pull)


def _authorisation(config: Config) -> tuple[Authenticator | None, PasswordFile | None, TokenServer | None]:
    auth = config.auth
    if auth is None:
        if config.access:
            raise InvalidConfig(reason="access rules need users: give auth.htpasswd or auth.tokens")
        return None, None, None
    from barque.registry.auth import PasswordFile

    permissions = _permissions(config, auth)
    users = None
    if auth.htpasswd:
        users = PasswordFile(read_text(auth.htpasswd), auth.realm, permissions)
    if auth.tokens is None:
        if users is None:
            raise InvalidConfig(reason="auth needs htpasswd or tokens")
        return users, users, None
    from barque.registry.auth import TokenAuthority
    from barque.registry.jwt import Key, Secret, load_key_set
    from barque.registry.tokens import TokenCheck, TokenServer

    tokens = auth.tokens
    if tokens.jwks:
        if not tokens.realm:
            raise InvalidConfig(reason="auth.tokens.jwks needs realm, the URL of that issuer's token server")
        keys = load_key_set(read_text(tokens.jwks).encode())
        return TokenAuthority(tokens.realm, tokens.service, TokenCheck(keys, tokens.issuer, tokens.service)), None, None
    if users is None:
        raise InvalidConfig(reason="the built-in token server needs auth.htpasswd; for another's tokens give jwks")
    secret = Secret(_secret(tokens.secret_file))
    own: dict[str, Key] = {"": secret}
    check = TokenCheck(own, tokens.issuer, tokens.service)
    return (TokenAuthority(tokens.realm, tokens.service, check), users,
            TokenServer(users, permissions, secret, tokens.issuer, tokens.service))

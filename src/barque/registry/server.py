"""``barque registry serve|gc|check``: the registry as a process of its own."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from barque.registry.lean import leaving_out

with leaving_out("typing_extensions"):  # of which msgspec needs nothing that typing does not have
    from barque import failpoints, log
    from barque.errors import BarqueError
    from barque.registry.config import Auth, Config, Tls, changed, load, read_text
    from barque.sys.malloc import frugal

if TYPE_CHECKING:
    from barque.registry.storage.base import Storage


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 256:
        raise argparse.ArgumentTypeError("want 1 to 256")
    return count


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="barque registry", description="An OCI registry")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", metavar="FILE", help="configuration (TOML); the options below come before it")
    common.add_argument("--root", metavar="DIR", help="directory of the stored images")
    common.add_argument("--log-level", default="info", choices=sorted(log.LEVELS))
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", parents=[common], help="serve until SIGTERM or SIGINT")
    serve.add_argument("--addr", metavar="HOST:PORT", help="where to listen (default 127.0.0.1:5000; port 0: any)")
    serve.add_argument("--status-addr", metavar="HOST:PORT", help="where /healthz and /metrics are served")
    serve.add_argument("--read-only", action="store_true", default=None, help="refuse every change")
    serve.add_argument("--tls-cert", metavar="FILE", help="certificate chain (PEM): serve HTTPS")
    serve.add_argument("--tls-key", metavar="FILE", help="its private key (PEM)")
    serve.add_argument("--htpasswd", metavar="FILE", help="ask for a user of this file (bcrypt: htpasswd -B)")
    serve.add_argument("--anonymous-pull", action="store_true", default=None, help="pulls need no user")
    serve.add_argument("--access-log", action="store_true", default=None, help="log every request")
    serve.add_argument("--workers", metavar="N", type=_count, help="processes that serve (default: one for 4 CPUs)")
    commands.add_parser("gc", parents=[common], help="collect garbage by the configuration's rules, also while serving")
    found = commands.add_parser("check", parents=[common], help="verify every digest and reference")
    found.add_argument("--repair", action="store_true", help="remove what is damaged, so that a push can bring it back")
    return parser


def _config(options: argparse.Namespace) -> Config:
    config = load(read_text(options.config)) if options.config else Config()
    if options.root is not None:
        config = changed(config, storage=changed(config.storage, root=options.root))
    if options.command != "serve":
        return config
    if bool(options.tls_cert) != bool(options.tls_key):
        raise ValueError("--tls-cert and --tls-key go together")
    auth = config.auth
    if options.htpasswd or options.anonymous_pull:
        auth = changed(auth or Auth(), htpasswd=options.htpasswd, anonymous_pull=options.anonymous_pull)
    return changed(  # type: ignore[no-any-return]
        config, listen=options.addr, status_listen=options.status_addr, read_only=options.read_only,
        workers=options.workers, access_log=options.access_log, auth=auth,
        tls=Tls(cert=options.tls_cert, key=options.tls_key) if options.tls_cert else None)


async def _gc(config: Config, storage: Storage) -> int:
    from barque.registry.assemble import policy_of
    from barque.registry.collect import collect

    report = await collect(storage, policy_of(config))
    print(report)
    return 1 if report.skipped else 0


async def _check(config: Config, storage: Storage, repair: bool) -> int:
    from barque.registry.check import check

    found = await check(storage, repair=repair, copies=tuple(upstream.prefix for upstream in config.upstream))
    for damage in found:
        print(damage)
    print(f"{len(found)} damages {'repaired' if repair else 'found'}")
    return 1 if found and not repair else 0


async def _maintain(options: argparse.Namespace, config: Config) -> int:
    from barque.registry.assemble import own_storage_of

    storage = own_storage_of(config)
    try:
        return await (_gc(config, storage) if options.command == "gc" else _check(config, storage, options.repair))
    finally:
        await storage.aclose()


def _serve(config: Config) -> int:
    plain = not (config.tls or config.storage.s3 or config.upstream or config.webhook)
    with leaving_out(*(["ssl"] if plain else [])):
        from barque.registry.service import serve

    return serve(config)


def _run(options: argparse.Namespace) -> int:
    config = _config(options)
    if options.command == "serve":
        return _serve(config)
    import asyncio

    return asyncio.run(_maintain(options, config))


def main(argv: list[str]) -> int:
    """``argv`` begins with the command; ``serve`` may be left out. Exit code 0, or 1 with the reason on stderr."""
    if argv[:1] == [] or argv[0].startswith("--"):
        argv = ["serve", *argv]
    options = _parser().parse_args(argv)
    log.configure(options.log_level)
    frugal()
    failpoints.arm(os.environ.get("BARQUE_FAILPOINTS", ""))
    try:
        return _run(options)
    except (OSError, ValueError, BarqueError) as error:
        print(f"barque registry {options.command}: {error}", file=sys.stderr)
        return 1

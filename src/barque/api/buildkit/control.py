"""BuildKit's control service as far as a build with the frontend ``dockerfile.v0`` needs it.

A client of today (buildx, compose, bake) is its own frontend: it calls ``Control/Solve`` without one, which waits, and
meanwhile ``LLBBridge/Solve`` with ``dockerfile.v0``, naming the first call in the metadata; ``Return`` says that it
wants the result. The build begins with the second call and is over when the first one is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from aiohttp import web
from grpclib.const import Handler

from barque.api.buildkit import jobs, messages
from barque.api.buildkit.arrivals import Arrivals
from barque.api.buildkit.board import Board
from barque.api.buildkit.connection import AnyStream, refused, serve, streaming, unary
from barque.api.buildkit.jobs import Builder, Order
from barque.api.buildkit.messages import Empty
from barque.api.buildkit.sessions import Sessions
from barque.config import VERSION
from barque.engine import clock
from barque.errors import InvalidArgument, NotFound, Unsupported
from barque.oci import platform as platforms

_CONTROL, _BRIDGE = "/moby.buildkit.v1.Control/", "/moby.buildkit.v1.frontend.LLBBridge/"
_BUILD_ID = "buildkit-controlapi-buildid"
_FRONTEND = "dockerfile.v0"
_LINT = "frontend.lint"
#: A frontend that is an image: these are what is built in here.
_SAME_FRONTENDS = ("docker/dockerfile", "docker.io/docker/dockerfile", "docker/dockerfile-upstream")
#: Names of frontend/gateway/pb/caps.go and solver/pb/caps.go: what of them there is.
_GATEWAY_CAPS = ("solve.base", "return", "returnmap", "proto.refarray", "importcaches", "gateway.solve.metadata",
                 "gateway.evaluate", "gateway.solve.evaluate", "frontend.caps")
_LLB_CAPS = ("source.image", "source.local", "source.git", "source.http", "exec.meta.base", "exec.mount.bind",
             "exec.mount.cache", "exec.mount.secret", "exec.mount.ssh", "exec.mount.tmpfs", "file.base", "constraints",
             "platform", "exporter.multiple")
#: What a client may try to find out whether it is there.
_MISSING = tuple(_CONTROL + name for name in ("Session", "ListenBuildHistory", "UpdateBuildHistory")) + tuple(
    _BRIDGE + name for name in (
        "ResolveImageConfig", "ResolveSourceMeta", "ReadFile", "ReadDir", "StatFile", "Inputs", "NewContainer",
        "ReleaseContainer", "ExecProcess", "ReadFileContainer", "ReadDirContainer", "StatFileContainer", "Warn"))


class NoSuchBuild(NotFound):
    text = "no such job {ref}"


class Cache(Protocol):
    async def disk_usage(self) -> list[dict[str, Any]]: ...
    async def prune(self, *, everything: bool, keep: int, until: str, mounts_only: bool = False) -> dict[str, Any]: ...


class _Job:
    """One call of ``Control/Solve``."""

    def __init__(self, ref: str) -> None:
        self.board = Board(ref)
        self.request: asyncio.Future[messages.SolveRequest] = asyncio.get_running_loop().create_future()
        self.build: asyncio.Task[dict[str, str]] | None = None
        self.returned: asyncio.Future[messages.ReturnRequest] = asyncio.get_running_loop().create_future()

    async def evaluated(self) -> None:
        """Wait for the build; raises what it has raised."""
        if self.build is not None:
            await asyncio.shield(self.build)


class Control:
    def __init__(self, builder: Builder, cache: Cache, engine_id: str, gateway_ip: Callable[[], str]) -> None:
        self.sessions = Sessions()
        self._builder = builder
        self._cache = cache
        self._id = engine_id
        self._gateway_ip = gateway_ip
        #: A status or a frontend may call before its build has.
        self._jobs = Arrivals[_Job]()

    async def accept(self, request: web.Request) -> web.StreamResponse:
        """``POST /grpc``."""
        return await serve(request, self._methods())

    def _methods(self) -> dict[str, Handler]:
        m = messages
        return {
            _CONTROL + "Info": unary(self._info, Empty, m.InfoResponse),
            _CONTROL + "ListWorkers": unary(self._workers, Empty, m.ListWorkersResponse),
            _CONTROL + "Solve": unary(self._solve, m.SolveRequest, m.SolveResponse),
            _CONTROL + "Status": streaming(self._status, m.StatusRequest, m.StatusResponse),
            _BRIDGE + "Ping": unary(self._ping, Empty, m.PongResponse),
            _BRIDGE + "Solve": unary(self._bridge_solve, m.BridgeSolveRequest, m.BridgeSolveResponse),
            _BRIDGE + "Evaluate": unary(self._evaluate, m.EvaluateRequest, Empty),
            _BRIDGE + "Return": unary(self._return, m.ReturnRequest, Empty),
            _CONTROL + "DiskUsage": unary(self._disk_usage, m.DiskUsageRequest, m.DiskUsageResponse),
            _CONTROL + "Prune": streaming(self._prune, m.PruneRequest, m.UsageRecord),
            **{method: refused(method) for method in _MISSING}}

    def _version(self) -> messages.BuildkitVersion:
        return messages.BuildkitVersion("barque", f"v{VERSION}")

    async def _info(self, _: AnyStream, __: Empty) -> messages.InfoResponse:
        return messages.InfoResponse(self._version())

    def _worker(self) -> messages.WorkerRecord:
        host = platforms.host()
        labels = {"org.mobyproject.buildkit.worker.hostname": self._id}
        if gateway := self._gateway_ip():
            labels["org.mobyproject.buildkit.worker.moby.host-gateway-ip"] = gateway
        return messages.WorkerRecord(self._id, labels, [
            messages.Platform(host.architecture, host.os, host.variant)], self._version())

    async def _workers(self, _: AnyStream, __: Empty) -> messages.ListWorkersResponse:
        return messages.ListWorkersResponse([self._worker()])

    async def _ping(self, stream: AnyStream, _: Empty) -> messages.PongResponse:
        await self._job(_build_id(stream))
        return messages.PongResponse([messages.ApiCap(name, True) for name in _GATEWAY_CAPS],
                                     [messages.ApiCap(name, True) for name in _LLB_CAPS], [self._worker()])

    async def _disk_usage(self, _: AnyStream, request: messages.DiskUsageRequest) -> messages.DiskUsageResponse:
        if any(request.filter):
            raise Unsupported("filters of the disk usage of builds are not supported")
        return messages.DiskUsageResponse([_usage(entry) for entry in await self._cache.disk_usage()])

    async def _prune(self, stream: AnyStream, request: messages.PruneRequest) -> None:
        if any(request.filter):
            raise Unsupported("filters of what is pruned are not supported")
        before = {entry["ID"]: entry for entry in await self._cache.disk_usage()}
        until = f"{request.keep_duration // 10**9}s" if request.keep_duration else ""
        done = await self._cache.prune(everything=request.all, keep=request.max_used_space or request.reserved_space,
                                       until=until)
        for key in done["CachesDeleted"] or ():
            await stream.send_message(_usage(before[key]))

    async def _job(self, ref: str) -> _Job:
        """The job, awaited where it is not there yet."""
        try:
            return await self._jobs.get(ref)
        except TimeoutError:
            raise NoSuchBuild(ref=ref) from None

    async def _status(self, stream: AnyStream, request: messages.StatusRequest) -> None:
        job = await self._job(request.ref)
        async for status in job.board.watch():
            await stream.send_message(status)

    async def _solve(self, _: AnyStream, request: messages.SolveRequest) -> messages.SolveResponse:
        if request.definition:
            raise Unsupported("a build that is given as LLB is not supported: this engine builds Dockerfiles")
        if request.ref in self._jobs:
            raise InvalidArgument(f"build {request.ref} is running already")
        job = _Job(request.ref)
        self._jobs.put(request.ref, job)
        try:
            job.request.set_result(request)
            if request.frontend:
                self._begin(job, request.frontend, request.frontend_attrs, [])
            else:
                returned = await job.returned
                if returned.error is not None and (returned.error.code or returned.error.message):
                    if job.build is not None and job.build.done():
                        await job.build  # the client only repeats what went wrong here
                    raise InvalidArgument(returned.error.message)
            return messages.SolveResponse(await job.build if job.build is not None else {})
        finally:
            if job.build is not None:
                job.build.cancel()
                await asyncio.gather(job.build, return_exceptions=True)
            job.board.end()
            self._jobs.remove(request.ref)

    def _begin(self, job: _Job, frontend: str, attrs: dict[str, str],
               imports: list[messages.CacheOptionsEntry]) -> None:
        _check_frontend(frontend, attrs)
        if job.build is not None:
            raise Unsupported("several builds under one reference are not supported")
        job.build = asyncio.create_task(self._build(job, attrs, imports))

    async def _build(self, job: _Job, attrs: dict[str, str],
                     imports: list[messages.CacheOptionsEntry]) -> dict[str, str]:
        request = await job.request
        session = await self.sessions.get(request.session)
        cache = request.cache or messages.CacheOptions()
        exporters = request.exporters or (
            [messages.Exporter(request.exporter, request.exporter_attrs)] if request.exporter else [])
        return await jobs.run(self._builder, session, Order(
            attrs, exporters, [*cache.imports, *imports], cache.exports, request.entitlements), job.board)

    async def _bridge_solve(self, stream: AnyStream,
                            request: messages.BridgeSolveRequest) -> messages.BridgeSolveResponse:
        job = await self._job(_build_id(stream))
        if request.definition or any(request.frontend_inputs.values()):
            raise Unsupported("a build that is given as LLB is not supported: this engine builds Dockerfiles")
        asked = request.frontend_opt.get("requestid", "")
        if asked:
            return messages.BridgeSolveResponse(await self._asked(job, asked, request))
        self._begin(job, request.frontend, request.frontend_opt, request.cache_imports)
        if request.evaluate:
            await job.evaluated()
        return messages.BridgeSolveResponse(messages.Result(messages.Ref("result")))

    async def _asked(self, job: _Job, asked: str, request: messages.BridgeSolveRequest) -> messages.Result:
        """Something else than a build: ``docker build --check``."""
        if asked != _LINT:
            raise Unsupported(f"{asked.removeprefix('frontend.')} is not supported for a Dockerfile")
        _check_frontend(request.frontend, request.frontend_opt)
        session = await self.sessions.get((await job.request).session)
        found = await jobs.check(self._builder, session, Order(request.frontend_opt), job.board)
        return messages.Result(metadata=found)

    async def _evaluate(self, stream: AnyStream, _: messages.EvaluateRequest) -> Empty:
        await (await self._job(_build_id(stream))).evaluated()
        return Empty()

    async def _return(self, stream: AnyStream, request: messages.ReturnRequest) -> Empty:
        job = await self._job(_build_id(stream))
        if not job.returned.done():
            job.returned.set_result(request)
        return Empty()


def _usage(entry: dict[str, Any]) -> messages.UsageRecord:
    """An entry of ``BuildCache`` of ``GET /system/df``."""
    return messages.UsageRecord(
        id=entry["ID"], mutable=entry["Type"] != "regular", in_use=entry["InUse"], size=entry["Size"],
        created_at=_timestamp(entry["CreatedAt"]), last_used_at=_timestamp(entry["LastUsedAt"]),
        usage_count=entry["UsageCount"], description=entry["Description"], record_type=entry["Type"])


def _timestamp(text: str) -> messages.Timestamp:
    return messages.Timestamp.at(clock.parse(text))


def _build_id(stream: AnyStream) -> str:
    assert stream.metadata is not None, "grpclib sets it before the handler is called"
    return str(stream.metadata.get(_BUILD_ID, ""))


def _check_frontend(frontend: str, attrs: dict[str, str]) -> None:
    image = attrs.get("source", "").partition("@")[0].rpartition(":")[0] or attrs.get("source", "")
    if frontend == _FRONTEND or (frontend == "gateway.v0" and image in _SAME_FRONTENDS):
        return
    name = attrs.get("source") or frontend
    raise Unsupported(f"the frontend {name} is not supported: this engine builds Dockerfiles")

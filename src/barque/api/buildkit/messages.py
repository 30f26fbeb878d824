"""BuildKit's messages that are spoken here, under their names; of each only the fields that are read or written.

Sources: moby/buildkit ``api/services/control``, ``frontend/gateway/pb``, ``session/*``; tonistiigi/fsutil ``types``.
"""

from __future__ import annotations

from dataclasses import dataclass

from barque.api.buildkit.fields import BYTES, TEXT, blob, flag, integer, kind_of, many, mapping, nested, text


@dataclass
class Empty:
    """Also stands for messages of which nothing is read."""


@dataclass
class Timestamp:
    seconds: int = integer(1)
    nanos: int = integer(2)

    @classmethod
    def at(cls, nanoseconds: int) -> Timestamp:
        return cls(*divmod(nanoseconds, 10**9))


@dataclass
class BytesMessage:
    data: bytes = blob(1)


# -- moby.buildkit.v1.Control

@dataclass
class Exporter:
    type: str = text(1)
    attrs: dict[str, str] = mapping(2, TEXT, TEXT)


CacheOptionsEntry = Exporter


@dataclass
class CacheOptions:
    exports: list[CacheOptionsEntry] = many(4, kind_of(CacheOptionsEntry))
    imports: list[CacheOptionsEntry] = many(5, kind_of(CacheOptionsEntry))


@dataclass
class SolveRequest:
    ref: str = text(1)
    definition: bytes = blob(2)
    exporter: str = text(3)
    exporter_attrs: dict[str, str] = mapping(4, TEXT, TEXT)
    session: str = text(5)
    frontend: str = text(6)
    frontend_attrs: dict[str, str] = mapping(7, TEXT, TEXT)
    cache: CacheOptions | None = nested(8, CacheOptions)
    entitlements: list[str] = many(9, TEXT)
    frontend_inputs: dict[str, bytes] = mapping(10, TEXT, BYTES)
    source_policy: bytes = blob(12)
    exporters: list[Exporter] = many(13, kind_of(Exporter))


@dataclass
class SolveResponse:
    exporter_response: dict[str, str] = mapping(1, TEXT, TEXT)


@dataclass
class StatusRequest:
    ref: str = text(1)


@dataclass
class Vertex:
    digest: str = text(1)
    inputs: list[str] = many(2, TEXT)
    name: str = text(3)
    cached: bool = flag(4)
    started: Timestamp | None = nested(5, Timestamp)
    completed: Timestamp | None = nested(6, Timestamp)
    error: str = text(7)


@dataclass
class VertexStatus:
    id: str = text(1)
    vertex: str = text(2)
    name: str = text(3)
    current: int = integer(4)
    total: int = integer(5)
    timestamp: Timestamp | None = nested(6, Timestamp)
    started: Timestamp | None = nested(7, Timestamp)
    completed: Timestamp | None = nested(8, Timestamp)


@dataclass
class VertexLog:
    vertex: str = text(1)
    timestamp: Timestamp | None = nested(2, Timestamp)
    stream: int = integer(3)
    msg: bytes = blob(4)


@dataclass
class StatusResponse:
    vertexes: list[Vertex] = many(1, kind_of(Vertex))
    statuses: list[VertexStatus] = many(2, kind_of(VertexStatus))
    logs: list[VertexLog] = many(3, kind_of(VertexLog))


@dataclass
class Platform:
    architecture: str = text(1)
    os: str = text(2)
    variant: str = text(3)


@dataclass
class BuildkitVersion:
    package: str = text(1)
    version: str = text(2)


@dataclass
class WorkerRecord:
    id: str = text(1)
    labels: dict[str, str] = mapping(2, TEXT, TEXT)
    platforms: list[Platform] = many(3, kind_of(Platform))
    version: BuildkitVersion | None = nested(5, BuildkitVersion)


@dataclass
class ListWorkersResponse:
    record: list[WorkerRecord] = many(1, kind_of(WorkerRecord))


@dataclass
class InfoResponse:
    version: BuildkitVersion | None = nested(1, BuildkitVersion)


@dataclass
class PruneRequest:
    filter: list[str] = many(1, TEXT)
    all: bool = flag(2)
    keep_duration: int = integer(3)
    reserved_space: int = integer(4)
    max_used_space: int = integer(5)


@dataclass
class DiskUsageRequest:
    filter: list[str] = many(1, TEXT)


@dataclass
class UsageRecord:
    id: str = text(1)
    mutable: bool = flag(2)
    in_use: bool = flag(3)
    size: int = integer(4)
    created_at: Timestamp | None = nested(6, Timestamp)
    last_used_at: Timestamp | None = nested(7, Timestamp)
    usage_count: int = integer(8)
    description: str = text(9)
    record_type: str = text(10)


@dataclass
class DiskUsageResponse:
    record: list[UsageRecord] = many(1, kind_of(UsageRecord))


# -- moby.buildkit.v1.frontend.LLBBridge

@dataclass
class Ref:
    id: str = text(1)


@dataclass
class Result:
    ref: Ref | None = nested(3, Ref)
    metadata: dict[str, bytes] = mapping(10, TEXT, BYTES)


@dataclass
class Detail:
    """google.protobuf.Any."""

    type_url: str = text(1)
    value: bytes = blob(2)


@dataclass
class RpcStatus:
    """google.rpc.Status."""

    code: int = integer(1)
    message: str = text(2)
    details: list[Detail] = many(3, kind_of(Detail))


@dataclass
class ReturnRequest:
    result: Result | None = nested(1, Result)
    error: RpcStatus | None = nested(2, RpcStatus)


@dataclass
class BridgeSolveRequest:
    definition: bytes = blob(1)
    frontend: str = text(2)
    frontend_opt: dict[str, str] = mapping(3, TEXT, TEXT)
    cache_imports: list[CacheOptionsEntry] = many(12, kind_of(CacheOptionsEntry))
    frontend_inputs: dict[str, bytes] = mapping(13, TEXT, BYTES)
    evaluate: bool = flag(14)


@dataclass
class BridgeSolveResponse:
    result: Result | None = nested(3, Result)


@dataclass
class EvaluateRequest:
    ref: str = text(1)


@dataclass
class ApiCap:
    id: str = text(1)
    enabled: bool = flag(2)


@dataclass
class PongResponse:
    frontend_api_caps: list[ApiCap] = many(1, kind_of(ApiCap))
    llb_caps: list[ApiCap] = many(2, kind_of(ApiCap))
    workers: list[WorkerRecord] = many(3, kind_of(WorkerRecord))


# -- what the client serves: moby.filesync.v1, moby.buildkit.secrets.v1, moby.sshforward.v1, moby.upload.v1

@dataclass
class Stat:
    """``mode`` is that of Go's os.FileMode; ``mod_time`` in nanoseconds since 1970."""

    path: str = text(1)
    mode: int = integer(2)
    uid: int = integer(3)
    gid: int = integer(4)
    size: int = integer(5)
    mod_time: int = integer(6)
    linkname: str = text(7)
    devmajor: int = integer(8)
    devminor: int = integer(9)
    xattrs: dict[str, bytes] = mapping(10, TEXT, BYTES)


@dataclass
class Packet:
    type: int = integer(1)
    stat: Stat | None = nested(2, Stat)
    id: int = integer(3)
    data: bytes = blob(4)


@dataclass
class CredentialsRequest:
    host: str = text(1)


@dataclass
class CredentialsResponse:
    username: str = text(1)
    secret: str = text(2)


@dataclass
class GetSecretRequest:
    id: str = text(1)


@dataclass
class GetSecretResponse:
    data: bytes = blob(1)


@dataclass
class CheckAgentRequest:
    id: str = text(1)

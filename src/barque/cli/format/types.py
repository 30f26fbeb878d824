"""Go's types behind the documents that templates look into.

docker's client reads an answer into a struct before a template sees it: a field that the answer leaves out, or has as
null, is empty there, some fields go by another name in Go than in JSON (``.ID`` for ``Id``), and maps are sorted.
"""

from __future__ import annotations

from barque.gotemplate.values import Document, GoMap, NilList, NilMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Fields as ``Name``, ``GoName=JsonName``, then their kind: ``:s`` string, ``:i`` number, ``:b`` bool, ``:l`` list,
#: ``:m`` map, ``:p`` pointer, or the name of a type; ``:l.Type`` and ``:m.Type`` are lists and maps of a type.
_TYPES = {
    "Container": "ID=Id:s Created:s Path:s Args:l State:State Image:s ResolvConfPath:s HostnamePath:s HostsPath:s "
                 "LogPath:s Name:s RestartCount:i Driver:s Platform:s MountLabel:s ProcessLabel:s AppArmorProfile:s "
                 "ExecIDs:l HostConfig:HostConfig GraphDriver:Driver SizeRw:p SizeRootFs:p Mounts:l.MountPoint "
                 "Config:Config NetworkSettings:NetworkSettings ImageManifestDescriptor:p",
    "State": "Status:s Running:b Paused:b Restarting:b OOMKilled:b Dead:b Pid:i ExitCode:i Error:s StartedAt:s "
             "FinishedAt:s Health:p",
    "Driver": "Name:s Data:m",
    "MountPoint": "Type:s Name:s Source:s Destination:s Driver:s Mode:s RW:b Propagation:s",
    "Config": "Hostname:s Domainname:s User:s AttachStdin:b AttachStdout:b AttachStderr:b ExposedPorts:m Tty:b "
              "OpenStdin:b StdinOnce:b Env:l Cmd:l Healthcheck:p ArgsEscaped:b Image:s Volumes:m WorkingDir:s "
              "Entrypoint:l NetworkDisabled:b MacAddress:s OnBuild:l Labels:m StopSignal:s StopTimeout:p Shell:l",
    "HostConfig": "Binds:l ContainerIDFile:s LogConfig:LogConfig NetworkMode:s PortBindings:m RestartPolicy:Restart "
                  "AutoRemove:b VolumeDriver:s VolumesFrom:l ConsoleSize:l Annotations:m CapAdd:l CapDrop:l "
                  "CgroupnsMode:s DNS=Dns:l DNSOptions=DnsOptions:l DNSSearch=DnsSearch:l ExtraHosts:l GroupAdd:l "
                  "IpcMode:s Cgroup:s Links:l OomScoreAdj:i PidMode:s Privileged:b PublishAllPorts:b "
                  "ReadonlyRootfs:b SecurityOpt:l StorageOpt:m Tmpfs:m UTSMode:s UsernsMode:s ShmSize:i Sysctls:m "
                  "Runtime:s Isolation:s CPUShares=CpuShares:i Memory:i NanoCPUs=NanoCpus:i CgroupParent:s "
                  "BlkioWeight:i BlkioWeightDevice:l BlkioDeviceReadBps:l BlkioDeviceWriteBps:l "
                  "BlkioDeviceReadIOps:l BlkioDeviceWriteIOps:l CPUPeriod=CpuPeriod:i CPUQuota=CpuQuota:i "
                  "CPURealtimePeriod=CpuRealtimePeriod:i CPURealtimeRuntime=CpuRealtimeRuntime:i CpusetCpus:s "
                  "CpusetMems:s Devices:l DeviceCgroupRules:l DeviceRequests:l KernelMemory:i KernelMemoryTCP:i "
                  "MemoryReservation:i MemorySwap:i MemorySwappiness:p OomKillDisable:p PidsLimit:p Ulimits:l "
                  "CPUCount=CpuCount:i CPUPercent=CpuPercent:i IOMaximumIOps:i IOMaximumBandwidth:i Mounts:l "
                  "MaskedPaths:l ReadonlyPaths:l Init:p",
    "LogConfig": "Type:s Config:m",
    "Restart": "Name:s MaximumRetryCount:i",
    "NetworkSettings": "Bridge:s SandboxID:s SandboxKey:s Ports:m HairpinMode:b LinkLocalIPv6Address:s "
                       "LinkLocalIPv6PrefixLen:i SecondaryIPAddresses:l SecondaryIPv6Addresses:l EndpointID:s "
                       "Gateway:s GlobalIPv6Address:s GlobalIPv6PrefixLen:i IPAddress:s IPPrefixLen:i IPv6Gateway:s "
                       "MacAddress:s Networks:m.Endpoint",
    "Endpoint": "IPAMConfig:p Links:l Aliases:l MacAddress:s DriverOpts:m GwPriority:i NetworkID:s EndpointID:s "
                "Gateway:s IPAddress:s IPPrefixLen:i IPv6Gateway:s GlobalIPv6Address:s GlobalIPv6PrefixLen:i "
                "DNSNames:l",
    "Image": "ID=Id:s RepoTags:l RepoDigests:l Parent:s Comment:s Created:s DockerVersion:s Author:s Config:Config "
             "Architecture:s Variant:s Os:s OsVersion:s Size:i VirtualSize:i GraphDriver:Driver RootFS:RootFS "
             "Metadata:ImageMetadata Descriptor:p Manifests:l",
    "RootFS": "Type:s Layers:l",
    "ImageMetadata": "LastTagTime:s",
    "Network": "Name:s ID=Id:s Created:s Scope:s Driver:s EnableIPv4:b EnableIPv6:b IPAM:Ipam Internal:b Attachable:b "
               "Ingress:b ConfigFrom:ConfigReference ConfigOnly:b Containers:m.NetworkEndpoint Options:m Labels:m "
               "Peers:l Services:m",
    "ConfigReference": "Network:s",
    "NetworkEndpoint": "Name:s EndpointID:s MacAddress:s IPv4Address:s IPv6Address:s",
    "Ipam": "Driver:s Options:m Config:l.IpamConfig",
    "IpamConfig": "Subnet:s IPRange:s Gateway:s AuxAddress=AuxiliaryAddresses:m",
    "Volume": "ClusterVolume:p CreatedAt:s Driver:s Labels:m Mountpoint:s Name:s Options:m Scope:s Status:m "
              "UsageData:p",
    "Info": "HTTPProxy=HttpProxy:s HTTPSProxy=HttpsProxy:s NoProxy:s CPUCfsPeriod=CpuCfsPeriod:b "
            "CPUCfsQuota=CpuCfsQuota:b KernelMemory:b KernelMemoryTCP:b ProductLicense:s DefaultAddressPools:l "
            "CDISpecDirs:l DiscoveredDevices:l Containerd:p FirewallBackend:p Warnings:l ServerErrors:l Runtimes:m "
            "Swarm:p ClientInfo:ClientInfo",
    "ClientInfo": "Debug:b Plugins:l Warnings:l APIVersion=ApiVersion:s DefaultAPIVersion:s GitCommit:s GoVersion:s",
    "Version": "Client:ClientVersion Server:ServerVersion",
    "ClientVersion": "Platform:p Version:s APIVersion=ApiVersion:s DefaultAPIVersion:s GitCommit:s GoVersion:s Os:s "
                     "Arch:s BuildTime:s Context:s",
    "ServerVersion": "Platform:p Components:l Version:s APIVersion=ApiVersion:s MinAPIVersion:s GitCommit:s "
                     "GoVersion:s Os:s Arch:s KernelVersion:s Experimental:b BuildTime:s",
}
_ZEROS: dict[str, Any] = {"s": "", "i": 0, "b": False, "l": NilList(), "m": NilMap(), "p": None}


def typed(value: Any, type_name: str) -> Any:
    """``value``, an answer of the engine, as a template sees the Go type ``type_name``."""
    if not isinstance(value, dict) or type_name not in _TYPES:
        return value
    result = Document(value)
    for field in _TYPES[type_name].split():
        names, _, kind = field.partition(":")
        go, _, wire = names.partition("=")
        wire = wire or go
        if wire in value:
            result[wire] = _field(value[wire], kind)
            result.hidden[go] = _empty(kind) if value[wire] is None else result[wire]
        else:
            result.hidden[go] = result.hidden[wire] = _empty(kind)
    return result


def _empty(kind: str) -> Any:
    kind = kind.partition(".")[0]
    return _ZEROS[kind] if kind in _ZEROS else typed({}, kind)


def _field(value: Any, kind: str) -> Any:
    kind, _, inner = kind.partition(".")
    if kind == "m" and isinstance(value, dict):
        return GoMap({key: typed(value[key], inner) for key in sorted(value)})
    if kind == "l" and isinstance(value, list):
        return [typed(item, inner) for item in value]
    return typed(value, kind)

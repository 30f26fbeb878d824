"""docker-py against the engine: the client that grabs the socket after an upgrade and matches error texts."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import docker
import pytest
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound

from tests.e2e.engine_world import EngineWorld, engine_world

# docker-py leaves the sockets of hijacked connections to the garbage collector.
pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"),
              pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("py")) as made:
        yield made


@pytest.fixture(params=["1.24", "1.45", "auto"])
def client(world: EngineWorld, request: pytest.FixtureRequest) -> Iterator[docker.DockerClient]:
    made = docker.DockerClient(base_url=f"unix://{world.socket}", version=request.param, timeout=60)
    yield made
    made.close()


def test_run_and_errors(client: docker.DockerClient) -> None:
    assert client.containers.run("busybox", ["echo", "hi"], remove=True) == b"hi\n"
    with pytest.raises(ContainerError) as caught:
        client.containers.run("busybox", ["sh", "-c", "echo no >&2; exit 3"], remove=True)
    assert (caught.value.exit_status, caught.value.stderr) == (3, b"no\n")
    with pytest.raises(ImageNotFound):
        client.images.get("nosuch")
    with pytest.raises(NotFound):
        client.containers.get("nosuch")
    with pytest.raises(APIError, match="executable file not found"):
        client.containers.run("busybox", ["nosuch"], remove=True)


def test_a_running_container(client: docker.DockerClient) -> None:
    container = client.containers.run("busybox", ["cat"], detach=True, stdin_open=True, labels={"a": "b"})
    try:
        done = container.exec_run(["sh", "-c", "echo out; echo err >&2; exit 4"], demux=True)
        assert done == (4, (b"out\n", b"err\n"))
        sock = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
        raw: socket.socket = getattr(sock, "_sock", sock)
        raw.sendall(b"typed\n")
        received = b""
        while len(received) < 14 and (data := raw.recv(4096)):
            received += data
        assert received == b"\x01\0\0\0\0\0\0\x06typed\n"
        # The input of a container that others may attach to does not end with one client's; its connection does.
        raw.shutdown(socket.SHUT_WR)
        assert raw.recv(4096) == b""
        container.reload()
        assert container.status == "running"
        raw.close()
        sock.close()
        stats = container.stats(stream=False)
        assert stats["id"] == container.id
        assert [item.id for item in client.containers.list(all=True, filters={"label": "a=b"})] == [container.id]
    finally:
        container.remove(force=True)


def test_logs_stream_and_wait(client: docker.DockerClient) -> None:
    container = client.containers.run("busybox", ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done; exit 5"],
                                      detach=True)
    assert b"".join(container.logs(stream=True, follow=True)) == b"1\n2\n3\n"
    assert container.wait()["StatusCode"] == 5
    container.remove()


def test_the_engine_tells_of_itself(client: docker.DockerClient) -> None:
    assert client.ping()
    assert client.info()["OSType"] == "linux"
    assert client.version()["MinAPIVersion"] == "1.24"
    assert {"bridge", "host", "none"} <= {network.name for network in client.networks.list()}
    if client.api._version != "1.24":
        usage = client.df()
        assert usage["ImageUsage"]["TotalCount"] if "ImageUsage" in usage else usage["Images"]


def test_the_runtime_that_is_asked_for(client: docker.DockerClient) -> None:
    """docker-py's low level puts it beside HostConfig."""
    made = client.api.create_container("busybox", ["true"], runtime="runc")
    assert client.api.inspect_container(made)["HostConfig"]["Runtime"] == "runc"
    client.api.remove_container(made)
    with pytest.raises(APIError, match="unknown or invalid runtime name: nosuch"):
        client.api.create_container("busybox", ["true"], runtime="nosuch")


def test_the_log_of_a_container_that_has_ended(client: docker.DockerClient) -> None:
    """It comes right behind the head of the answer, which docker-py reads through a buffer that it then drops."""
    container = client.containers.run("busybox", ["echo", "hello"], detach=True)
    container.wait()
    for _ in range(10):
        assert container.attach(stream=False, logs=True) == b"hello\n"
    container.remove()

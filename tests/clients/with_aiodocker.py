"""aiodocker: pull, run, exec, attach, logs, archives, networks, events, build."""

import asyncio
import io
import tarfile

import aiodocker


def archive(**files: str) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    buffer.seek(0)
    return buffer


async def containers(docker: aiodocker.Docker) -> None:
    events = docker.events.subscribe()
    container = await docker.containers.run(
        {"Image": "busybox", "Cmd": ["sh", "-c", "echo out; read x; echo got $x; exit 7"], "OpenStdin": True,
         "AttachStdin": True, "AttachStdout": True, "StdinOnce": True}, name="aio")
    while (event := await events.get())["Action"] != "start":
        assert event["Type"] in ("container", "network"), event
    assert (await container.show())["State"]["Running"]

    execution = await container.exec(["sh", "-c", "cat; exit 3"], stdin=True)
    async with execution.start() as stream:
        await stream.write_in(b"typed")
        message = await stream.read_out()
        assert message is not None
        assert message.data == b"typed"
    await container.put_archive("/tmp", archive(file="text").read())
    fetched = await container.get_archive("/tmp/file")
    assert fetched.extractfile("file").read() == b"text"
    assert (await container.stats(stream=False))[0]["memory_stats"]["usage"] > 0

    async with container.attach(stdin=True, stdout=True) as stream:
        await stream.write_in(b"word\n")
        message = await stream.read_out()
        assert message is not None
        assert message.data == b"got word\n"
    assert (await container.wait())["StatusCode"] == 7
    assert await container.log(stdout=True) == ["out\n", "got word\n"]
    await container.delete()


async def others(docker: aiodocker.Docker) -> None:
    network = await docker.networks.create({"Name": "aionet", "Driver": "bridge"})
    volume = await docker.volumes.create({"Name": "aiovol"})
    assert (await network.show())["Name"] == "aionet"
    assert (await volume.show())["Name"] == "aiovol"
    await volume.delete()
    await network.delete()
    lines = await docker.images.build(
        fileobj=archive(Dockerfile="FROM busybox\nRUN echo built > /f\nCMD cat /f\n"), tag="aio:1", encoding="identity")
    assert any("Successfully built" in line.get("stream", "") for line in lines), lines
    container = await docker.containers.run({"Image": "aio:1"})
    await container.wait()
    assert await container.log(stdout=True) == ["built\n"]
    await container.delete()
    await docker.images.delete("aio:1", force=True)
    try:
        await docker.containers.get("nosuch")
    except aiodocker.exceptions.DockerError as error:
        assert (error.status, error.message) == (404, "No such container: nosuch")
    else:
        raise AssertionError("a container that is not there was found")


async def main() -> None:
    docker = aiodocker.Docker()
    try:
        assert (await docker.version())["ApiVersion"]
        await docker.images.pull("busybox")
        await containers(docker)
        await others(docker)
    finally:
        await docker.close()


asyncio.run(main())

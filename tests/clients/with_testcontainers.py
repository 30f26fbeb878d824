"""testcontainers: containers for tests, with ports, waiting for logs, files, networks."""

from urllib.request import urlopen

from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.waiting_utils import wait_for_logs

with Network() as network:
    server = (DockerContainer("busybox").with_command("sh -c 'echo ready; exec httpd -f -p 80 -h /'")
              .with_exposed_ports(80).with_network(network).with_network_aliases("server").with_env("A", "b"))
    with server as running:
        wait_for_logs(running, "ready", timeout=20)
        where = f"http://{running.get_container_host_ip()}:{running.get_exposed_port(80)}/etc/passwd"
        assert urlopen(where, timeout=20).read().startswith(b"root:")
        code, output = running.exec(["sh", "-c", "echo $A"])
        assert (code, output) == (0, b"b\n")
        with DockerContainer("busybox").with_command("wget -q -O- http://server/etc/hostname").with_network(network) \
                as client:
            wait_for_logs(client, running.get_wrapped_container().short_id[:12], timeout=20)

"""Broker and store with the settings of docker-compose.yml, started without containers; with TLS and without."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiokafka.errors import TopicAuthorizationFailedError

from control_plane.local.doctor_checks import check_store
from control_plane.local.embedded_parts import broker_answers, store_answers, store_argv
from inferlane.contracts.naming import Lane, Names
from inferlane.errors import UnavailableError
from inferlane.runtime.config import Settings, load_settings
from inferlane.runtime.kafka.clients import make_producer
from tests.support.brokers import ApacheCluster
from tests.support.parts import free_port, running

pytestmark = pytest.mark.timeout(400)

REPOSITORY = Path(__file__).parents[2]
NAMES = Names()
CERTIFICATES = "/etc/inferlane/tls"


def read_services(name: str) -> dict[str, dict[str, Any]]:
    # Passwords as scripts/compose-passwords.sh makes them, one for each variable.
    text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: found[1].encode().hex(), (REPOSITORY / name).read_text())
    services: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return services


class Compose:
    """The services as Compose has them; with `certificates`, those of docker-compose.tls.yml over the others."""

    def __init__(self, certificates: Path | None) -> None:
        self.certificates = certificates
        self._base = read_services("docker-compose.yml")
        self._over = {} if certificates is None else read_services("docker-compose.tls.yml")

    def environment(self, service: str) -> dict[str, str]:
        merged = {
            **self._base[service]["environment"],
            **self._over.get(service, {}).get("environment", {}),
        }
        return {name: self._placed(value) for name, value in merged.items()}

    def command(self, service: str) -> list[str]:
        command = self._over.get(service, {}).get("command", self._base[service]["command"])
        return [self._placed(part) for part in command]

    def _placed(self, value: str) -> str:
        return value.replace(CERTIFICATES, str(self.certificates))


@pytest.fixture(params=["plain", "tls"])
def compose(request: pytest.FixtureRequest, tmp_path: Path) -> Compose:
    if request.param == "plain":
        return Compose(None)
    if shutil.which("openssl") is None:
        assert "CI" not in os.environ, "CI installs openssl"
        pytest.skip("certificates are made with openssl; apt-get install openssl")
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(REPOSITORY / "scripts" / "compose-certificates.sh", tmp_path / "scripts")
    subprocess.run(["bash", script], check=True)
    folder = tmp_path / ".inferlane" / "tls"
    assert folder.stat().st_mode & 0o077 == 0
    return Compose(folder)


class ComposeBroker(ApacheCluster):
    """One node with the environment of the service `kafka`, as the image makes properties of it; other addresses."""

    def __init__(self, folder: Path, compose: Compose) -> None:
        super().__init__(folder)
        self._compose = compose
        self._services_port = free_port()

    def open(self) -> None:
        node = self._nodes[1]
        places = {
            "127.0.0.1:9094": node.server,
            "127.0.0.1:9093": f"127.0.0.1:{node.controller_port}",
            "//:9092": f"//127.0.0.1:{self._services_port}",
            "kafka:9092": f"localhost:{self._services_port}",
            "/var/lib/kafka/data": str(node.folder / "log"),
        }
        properties = []
        for variable, value in self._compose.environment("kafka").items():
            if variable != "KAFKA_HEAP_OPTS":
                text = value
                for there, here in places.items():
                    text = text.replace(there, here)
                properties.append(f"{variable.removeprefix('KAFKA_').lower().replace('_', '.')}={text}\n")
        node.folder.mkdir(parents=True)
        node.properties_path.write_text("".join(properties))
        self._format()
        self._launch(node)
        self._wait_until_serving(1)

    def environment_of(self, service: str) -> dict[str, str]:
        """The environment of a service, with the addresses of this broker."""
        environment = self._compose.environment(service)
        assert environment["INFERLANE_KAFKA_BOOTSTRAP_SERVERS"] == "kafka:9092"
        return {**environment, "INFERLANE_KAFKA_BOOTSTRAP_SERVERS": f"localhost:{self._services_port}"}

    def settings_of(self, service: str, **more: object) -> Settings:
        chosen = {name.removeprefix("INFERLANE_").lower(): text for name, text in self.environment_of(service).items()}
        return load_settings(**{**chosen, **more})


async def test_the_broker_of_compose_lets_in_each_service_as_its_user_alone(
    broker_kind: str, compose: Compose, tmp_path: Path
) -> None:
    if broker_kind != ApacheCluster.kind:
        pytest.skip(f"the {broker_kind} broker has no users; run with --broker apache")
    with ComposeBroker(tmp_path / "kafka", compose) as broker:
        # What the service `topics` runs; the image has a models folder, this test names the version.
        (command,) = compose.command("topics")
        for part in command.split(" && "):
            program, *arguments = part.split()
            assert program == "inferlane"
            asked = [sys.executable, "-m", "control_plane", *arguments, "--version", "iris/v1"]
            environment = os.environ | broker.environment_of("topics")
            await asyncio.to_thread(subprocess.run, asked, env=environment, check=True, timeout=120)
        for service in ("api", "router", "worker-v1", "webhooks", "operator"):
            assert await broker_answers(broker.settings_of(service).kafka)
        with pytest.raises(UnavailableError):
            await broker_answers(broker.settings_of("api", kafka_sasl_password="wr0ng").kafka)  # noqa: S106 - the point
        if compose.certificates is not None:
            with pytest.raises(UnavailableError):
                await broker_answers(
                    broker.settings_of("api", kafka_security_protocol="SASL_PLAINTEXT", kafka_ssl_cafile=None).kafka
                )
        producer = make_producer(broker.settings_of("api").kafka)
        await producer.start()
        await producer.send_and_wait(NAMES.ingress[Lane.REQUESTS], b"x")
        await producer.stop()
        producer = make_producer(broker.settings_of("worker-v1").kafka)
        await producer.start()
        with pytest.raises(TopicAuthorizationFailedError):
            await producer.send_and_wait(NAMES.splits, b"x")
        await producer.stop()


async def test_the_store_of_compose_lets_in_the_services_alone(compose: Compose, tmp_path: Path) -> None:
    port = free_port()
    _, *arguments = compose.command("valkey")
    environment = compose.environment("api")
    there = environment["INFERLANE_REDIS_URL"].replace("valkey:6379", f"localhost:{port}")
    url = there if compose.certificates is None else f"{there}?ssl_ca_certs={compose.certificates}/ca.crt"
    ours = load_settings(
        redis_url=url,
        redis_username=environment["INFERLANE_REDIS_USERNAME"],
        redis_password=environment["INFERLANE_REDIS_PASSWORD"],
    )
    (tmp_path / "data").mkdir()
    arguments = [str(port) if each == "6379" else each.replace("/data", f"{tmp_path}/data") for each in arguments]
    if compose.certificates is None:
        server = [store_argv(port, maxmemory_mib=64)[0], "--port", str(port)]
    else:
        found = shutil.which("redis-server")
        if found is None:
            assert "CI" not in os.environ, "CI installs redis-server"
            pytest.skip("the embedded store has no TLS; apt-get install redis-server")
        server = [found]
        # Debian 12 has Redis 7.0, which does not know this command, and does not start with a rule on it.
        arguments = [each for each in arguments if each != "+client|setinfo"]
    async with running([*server, *arguments], lambda: store_answers(ours.store.redis_url)):
        assert "noeviction" in await check_store(ours.api, ours.store.redis_url, ours.stack.names)
        with pytest.raises(UnavailableError):
            await store_answers(url)
        # As the health check asks.
        assert await store_answers(url.replace("//", "//probe:probe@", 1))

"""Broker and store with the settings of docker-compose.yml, started without containers."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiokafka.errors import TopicAuthorizationFailedError

from inferlane.config import Settings, load_settings
from inferlane.errors import UnavailableError
from inferlane.kafka.clients import make_producer
from inferlane.naming import Lane, Names
from inferlane.stack.broker import broker_answers
from inferlane.stack.checks import check_store
from inferlane.stack.store import store_answers, store_argv
from tests.brokers import ApacheCluster
from tests.integration._parts import free_port, running

pytestmark = pytest.mark.timeout(400)

REPOSITORY = Path(__file__).parents[2]
# As scripts/compose-passwords.sh makes them, one for each variable.
COMPOSE = re.sub(
    r"\$\{(\w+):\?[^}]*\}",
    lambda found: found[1].encode().hex(),
    (REPOSITORY / "docker-compose.yml").read_text(),
)
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
NAMES = Names()


class ComposeBroker(ApacheCluster):
    """One node with the environment of the service `kafka`, as the image makes properties of it; other addresses."""

    def open(self) -> None:
        node = self._nodes[1]
        self.services_port = free_port()
        places = {
            "127.0.0.1:9094": node.server,
            "127.0.0.1:9093": f"127.0.0.1:{node.controller_port}",
            "//:9092": f"//127.0.0.1:{self.services_port}",
            "kafka:9092": f"127.0.0.1:{self.services_port}",
            "/var/lib/kafka/data": str(node.folder / "log"),
        }
        properties = []
        for variable, value in SERVICES["kafka"]["environment"].items():
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
        environment: dict[str, str] = dict(SERVICES[service]["environment"])
        server = environment["INFERLANE_KAFKA_BOOTSTRAP_SERVERS"]
        here = self.bootstrap_servers if server.startswith("127.0.0.1") else f"127.0.0.1:{self.services_port}"
        return {**environment, "INFERLANE_KAFKA_BOOTSTRAP_SERVERS": here}

    def settings_of(self, service: str, **more: object) -> Settings:
        environment = self.environment_of(service)
        return load_settings(
            **{name.removeprefix("INFERLANE_").lower(): text for name, text in environment.items()} | more
        )


async def test_the_broker_of_compose_lets_in_each_service_as_its_user_alone(broker_kind: str, tmp_path: Path) -> None:
    if broker_kind != ApacheCluster.kind:
        pytest.skip(f"the {broker_kind} broker has no users; run with --broker apache")
    with ComposeBroker(tmp_path / "kafka") as broker:
        # What the service `topics` runs; the image has a models folder, this test names the version.
        (command,) = SERVICES["topics"]["command"]
        for part in command.split(" && "):
            asked = [sys.executable, "-m", *part.split(), "--version", "iris/v1"]
            environment = os.environ | broker.environment_of("topics")
            await asyncio.to_thread(subprocess.run, asked, env=environment, check=True, timeout=120)
        for service in ("api", "router", "worker-v1", "operator"):
            assert await broker_answers(broker.settings_of(service))
        with pytest.raises(UnavailableError):
            await broker_answers(broker.settings_of("api", kafka_sasl_password="wr0ng"))  # noqa: S106 - the point
        producer = make_producer(broker.settings_of("api"))
        await producer.start()
        await producer.send_and_wait(NAMES.ingress[Lane.REQUESTS], b"x")
        await producer.stop()
        producer = make_producer(broker.settings_of("worker-v1"))
        await producer.start()
        with pytest.raises(TopicAuthorizationFailedError):
            await producer.send_and_wait(NAMES.splits, b"x")
        await producer.stop()


async def test_the_store_of_compose_lets_in_the_services_alone(tmp_path: Path) -> None:
    port = free_port()
    _, *arguments = (text.replace("/data", str(tmp_path)) for text in SERVICES["valkey"]["command"])
    chosen = SERVICES["api"]["environment"]
    url = chosen["INFERLANE_REDIS_URL"].replace("valkey:6379", f"127.0.0.1:{port}")
    ours = load_settings(
        redis_url=url,
        redis_username=chosen["INFERLANE_REDIS_USERNAME"],
        redis_password=chosen["INFERLANE_REDIS_PASSWORD"],
    )
    server = store_argv(port, maxmemory_mib=64)[0]
    async with running([server, "--port", str(port), *arguments], lambda: store_answers(ours.redis_url)):
        assert "noeviction" in await check_store(ours)
        with pytest.raises(UnavailableError):
            await store_answers(url)
        # As the health check asks.
        assert await store_answers(url.replace("//", "//probe:probe@"))

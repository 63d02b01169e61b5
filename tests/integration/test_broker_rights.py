"""The services as the users of `control_plane.broker_acls` on Apache Kafka with an authorizer."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicCollection
from confluent_kafka import TopicPartition as ConfluentPartition
from confluent_kafka.admin import (
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

import producer_api.main
import router.main
import workers.main
from control_plane.broker_acls import Operation, Resource, Service, rights_by_service, user_name
from control_plane.kubernetes.backing_services import user_lines
from control_plane.local.embedded_parts import store_answers, store_argv
from control_plane.topic_admin import topic_specs
from inferlane.contracts.naming import Lane, Names
from inferlane.runtime.config import Settings
from inferlane.runtime.kafka.clients import make_consumer, make_producer
from inferlane.runtime.kafka.lag import BacklogReader
from inferlane.runtime.kafka.offsets import Subscription
from inferlane.runtime.redis.connection import connect
from tests.support.brokers import ApacheCluster
from tests.support.brokers.apache.security import Security
from tests.support.fakes.stores import write_tiny_onnx, write_tiny_store
from tests.support.parts import eventually, free_port
from tests.support.parts import running as running_server
from tests.support.running_api import serving

pytestmark = pytest.mark.timeout(600)

NAMES = Names()
VERSIONS = [("tiny", "v1")]
RIGHTS = rights_by_service(NAMES, VERSIONS)
_NO_GROUP, _MANY = KafkaError.GROUP_AUTHORIZATION_FAILED, 50
PROTOCOL, MECHANISM = "SASL_SSL", "SCRAM-SHA-512"


@pytest.fixture(scope="module")
def cluster(broker_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheCluster]:
    """A node that lets the users of the plan do what our own commands granted them."""
    with restricted_cluster(broker_kind, tmp_path_factory.mktemp("rights")) as cluster:
        yield cluster


@pytest.fixture
def own_cluster(broker_kind: str, tmp_path: Path) -> Iterator[ApacheCluster]:
    """The same for one test alone, which changes the rights and the catalogue."""
    with restricted_cluster(broker_kind, tmp_path) as cluster:
        yield cluster


@contextmanager
def restricted_cluster(broker_kind: str, folder: Path) -> Iterator[ApacheCluster]:
    if broker_kind != ApacheCluster.kind:
        pytest.skip(f"the {broker_kind} broker has no authorizer; run with --broker apache")
    security = Security.make(folder / "security", users=tuple(user_name(NAMES, service) for service in Service))
    with ApacheCluster(folder, security=security) as cluster:
        run_cli(cluster.environment(), "acls", "create", "--version", "tiny/v1")
        few = {"ingress_partitions": 1, "work_partitions": 1}
        run_cli(as_user(cluster, Service.OPERATOR, **few), "topics", "create", "--version", "tiny/v1")
        yield cluster


def access(cluster: ApacheCluster, service: Service) -> dict[str, Any]:
    security = cluster.security
    assert security is not None
    return {
        "kafka_bootstrap_servers": cluster.secure_servers(PROTOCOL),
        "kafka_security_protocol": PROTOCOL,
        "kafka_ssl_cafile": security.ca_path,
        "kafka_sasl_mechanism": MECHANISM,
        "kafka_sasl_username": user_name(NAMES, service),
        "kafka_sasl_password": security.password,
    }


def confluent_access(cluster: ApacheCluster, service: Service) -> dict[str, str]:
    """The same for another client, which says what the broker answered."""
    security = cluster.security
    assert security is not None
    return {
        "bootstrap.servers": cluster.secure_servers(PROTOCOL),
        "security.protocol": PROTOCOL,
        "ssl.ca.location": str(security.ca_path),
        "sasl.mechanism": MECHANISM,
        "sasl.username": user_name(NAMES, service),
        "sasl.password": security.password,
    }


def as_user(cluster: ApacheCluster, service: Service, **more: object) -> dict[str, str]:
    """The environment of a process that logs in as the service's user."""
    return cluster.environment(**access(cluster, service), **more)


def settings_of(cluster: ApacheCluster, service: Service, **more: object) -> Settings:
    return cluster.settings(**access(cluster, service), ingress_partitions=1, work_partitions=1, **more)


def run_cli(environment: dict[str, str], *arguments: str) -> str:
    ran = ran_cli(environment, *arguments)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def ran_cli(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "control_plane", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@asynccontextmanager
async def running(cluster: ApacheCluster, **more: object) -> AsyncIterator[str]:
    """Yields the URL of an API with a router and a worker behind it, each as its own user."""
    api, routing, working = (settings_of(cluster, service, **more) for service in list(Service)[:3])
    stop = asyncio.Event()
    services = [
        producer_api.main.serve(api, stop),
        router.main.serve(routing, stop),
        workers.main.serve(working, stop, model="tiny", version="v1"),
    ]
    async with serving(api.api.port, stop, *services) as url:
        yield url


@asynccontextmanager
async def restricted_store(folder: Path) -> AsyncIterator[str]:
    """Yields the URL of a store whose user may do what ours may on a cluster."""
    rules = folder / "users.acl"
    admin = "user admin on >admin ~* &* +@all"
    rules.write_text("\n".join([*user_lines(NAMES, ">secret"), admin, ""]))
    port = free_port()
    url = f"redis://inferlane:secret@127.0.0.1:{port}/0"
    argv = (*store_argv(port, maxmemory_mib=64), "--aclfile", str(rules))
    async with running_server(argv, lambda: store_answers(url)):
        yield url


async def call(url: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"{url}{path}", json=body) as answer,
    ):
        return answer.status, await answer.json(content_type=None)


async def test_the_services_do_all_their_work_with_the_rights_of_the_plan(
    cluster: ApacheCluster, tmp_path: Path
) -> None:
    write_tiny_store(tmp_path / "models")
    async with AsyncExitStack() as stack:
        more = {
            "redis_url": await stack.enter_async_context(restricted_store(tmp_path)),
            "models_dir": tmp_path / "models",
            "default_model": "tiny",
            "api_port": free_port(),
            "state_dir": tmp_path / "state",
        }
        url = await stack.enter_async_context(running(cluster, **more))
        status, answer = await call(
            url, "POST", "/v1/models/predict", {"instances": [[1.0, 2.0, 3.0]], "timeout_s": 60}
        )
        assert status == 200, answer
        status, answer = await call(url, "POST", "/v1/traffic-split", {"model": "tiny", "weights": {"v1": 1.0}})
        assert status == 200, answer

        operator = as_user(cluster, Service.OPERATOR, ingress_partitions=1, work_partitions=1, **more)
        # A bulk job: in by the bulk lane, out by the topic of results.
        rows = tmp_path / "rows.jsonl"
        rows.write_text("[1.0, 2.0, 3.0]\n" * 5)
        job = ["batch", "submit", str(rows), "--out", str(tmp_path / "out.jsonl")]
        await asyncio.to_thread(run_cli, operator, *job)
        assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 5
        # What nobody can read becomes a dead letter of the worker; a model that nobody has, one of the router.
        producer = make_producer(settings_of(cluster, Service.OPERATOR).kafka)
        await producer.start()
        for headers in ([("ce_model", b"tiny")], [("ce_model", b"tiny"), ("ce_attempt", b"x")]):
            await producer.send_and_wait(NAMES.ingress[Lane.REQUESTS], b"no JSON", key=b"k", headers=headers)
        await producer.stop()

        async def letters_came() -> bool:
            listed = await asyncio.to_thread(run_cli, operator, "dead-letters", "list", "--json")
            return len(listed.splitlines()) >= 2

        await eventually(letters_came)
        assert "tiny v1" in await asyncio.to_thread(run_cli, operator, "doctor")
        # The outcome came by its topic to the router, which counts it in the store.

        async def is_counted() -> bool:
            status, metrics = await call(url, "GET", "/v1/metrics/v1?model=tiny")
            return status == 200 and bool(json.dumps(metrics)) and metrics["requests"] >= 1

        await eventually(is_counted)
        # Taken back before it is answered, or after: the workers hear of it either way.
        asked = await call(url, "POST", "/v1/models/predict", {"instances": [[1.0, 2.0, 3.0]], "timeout_s": 60})
        assert (await call(url, "DELETE", f"/v1/predictions/{asked[1]['request_id']}"))[0] < 500
        # The store's own log of what it refused: nothing of all this.
        async with connect(re.sub("//.*@", "//admin:admin@", str(more["redis_url"]))) as admin:
            assert await admin.acl_log() == []
        # As KEDA reads lag.
        reader = BacklogReader(settings_of(cluster, Service.AUTOSCALER).kafka)
        watched = [
            Subscription(NAMES.ingress[Lane.REQUESTS], NAMES.router_group),
            Subscription(NAMES.work_topic("tiny", "v1", Lane.BULK), NAMES.worker_group("tiny", "v1")),
        ]
        positions = await reader.read(watched)
        await reader.close()
        assert all(positions[each].committed > 0 for each in watched)


@pytest.mark.parametrize("service", Service)
def test_the_broker_allows_each_user_what_the_plan_says_and_nothing_else(
    cluster: ApacheCluster, service: Service
) -> None:
    """The broker's own verdict on every topic of ours and every operation that there is."""
    admin = AdminClient(confluent_access(cluster, service))
    planned = {right.name: set(right.operations) for right in RIGHTS[service] if right.resource is Resource.TOPIC}
    topics = [
        spec.name
        for spec in topic_specs(
            cluster.settings().kafka, cluster.settings().stack.names, cluster.settings().webhooks, VERSIONS
        )
    ]
    described = admin.describe_topics(TopicCollection(topics), include_authorized_operations=True)
    allowed: dict[str, set[str]] = {}
    for name, future in described.items():
        error = future.exception(timeout=60)
        if error is None:
            operations = future.result().authorized_operations
            allowed[name] = {operation.name.title().replace("_", "") for operation in operations}
        else:
            assert "TOPIC_AUTHORIZATION_FAILED" in str(error)
            allowed[name] = set()
    implied = {Operation.READ.value, Operation.WRITE.value}
    wanted = {name: {operation.value for operation in planned.get(name, ())} for name in topics}
    for operations_of in wanted.values():
        if operations_of & implied:
            operations_of.add(Operation.DESCRIBE.value)
    assert allowed == wanted


@pytest.mark.parametrize(
    ("service", "topic"),
    [
        (Service.WORKER, NAMES.splits),
        (Service.WORKER, NAMES.catalog),
        (Service.WORKER, NAMES.rollouts),
        (Service.WORKER, NAMES.ingress[Lane.REQUESTS]),
        (Service.ROUTER, NAMES.ingress[Lane.REQUESTS]),
        (Service.ROUTER, NAMES.catalog),
        (Service.API, NAMES.catalog),
        (Service.API, NAMES.work_topic("tiny", "v1", Lane.REQUESTS)),
        (Service.API, NAMES.outcomes),
        (Service.AUTOSCALER, NAMES.ingress[Lane.BULK]),
        (Service.OPERATOR, NAMES.splits),
    ],
)
async def test_a_user_cannot_write_where_it_has_no_business(
    cluster: ApacheCluster, service: Service, topic: str
) -> None:
    # Without idempotence, which Apache Kafka refuses already to a user that may write nowhere.
    producer = make_producer(settings_of(cluster, service, kafka_idempotence=False).kafka)
    await producer.start()
    try:
        with pytest.raises(TopicAuthorizationFailedError):
            await producer.send_and_wait(topic, b"x")
    finally:
        await producer.stop()


@pytest.mark.parametrize(
    ("service", "topic"),
    [
        (Service.API, NAMES.dead_letters),
        (Service.API, NAMES.ingress[Lane.REQUESTS]),
        (Service.WORKER, NAMES.splits),
        (Service.ROUTER, NAMES.results),
        (Service.AUTOSCALER, NAMES.ingress[Lane.REQUESTS]),
    ],
)
def test_a_user_cannot_read_what_is_not_for_it(cluster: ApacheCluster, service: Service, topic: str) -> None:
    consumer = Consumer({**confluent_access(cluster, service), "group.id": "inferlane.not-used"})
    try:
        consumer.assign([ConfluentPartition(topic, 0, OFFSET_BEGINNING)])
        error = consumer.list_topics(topic, timeout=60).topics[topic].error
        if error is None:
            # It may look at the topic; the client then asks for its group too, which is not allowed either.
            messages = (consumer.poll(60) for _ in range(_MANY))
            first = next(m for m in messages if m is None or m.error() is None or m.error().code() != _NO_GROUP)
            assert first is not None
            error = first.error()
        assert error is not None
        assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
    finally:
        consumer.close()


async def test_a_user_cannot_join_the_group_of_another(cluster: ApacheCluster) -> None:
    topic = NAMES.work_topic("tiny", "v1", Lane.REQUESTS)
    consumer = make_consumer(settings_of(cluster, Service.WORKER).kafka, topic, group=NAMES.router_group)
    try:
        with pytest.raises(GroupAuthorizationFailedError):
            await asyncio.wait_for(consumer.start(), 60)
    finally:
        await consumer.stop()


async def test_a_version_is_served_made_the_default_and_retired_with_the_rights_of_the_plan(
    own_cluster: ApacheCluster, tmp_path: Path
) -> None:
    """Nobody restarts: without its rights the version is refused in one sentence, and nothing is half there."""
    cluster, models_dir = own_cluster, tmp_path / "models"
    write_tiny_store(models_dir)
    later = {"model": "tiny", "version": "v2", "instances": [[1.0, 2.0, 3.0]], "timeout_s": 60}
    async with AsyncExitStack() as stack:
        more = {
            "redis_url": await stack.enter_async_context(restricted_store(tmp_path)),
            "models_dir": models_dir,
            "default_model": "tiny",
            "api_port": free_port(),
            "state_dir": tmp_path / "state",
        }
        url = await stack.enter_async_context(running(cluster, **more))
        operator = as_user(cluster, Service.OPERATOR, ingress_partitions=1, work_partitions=1, **more)
        write_tiny_onnx(tmp_path / "export.onnx")
        add = ["models", "add", str(tmp_path / "export.onnx"), "--name", "tiny"]
        assert "inferlane models serve tiny/v2" in await asyncio.to_thread(run_cli, operator, *add)

        serve = ["models", "serve", "tiny/v2"]
        refused = await asyncio.to_thread(ran_cli, operator, *serve)
        said = " ".join(refused.stderr.split())
        assert refused.returncode == 1, refused.stdout
        assert f"the broker denies {user_name(NAMES, Service.OPERATOR)} the topics of tiny v2" in said
        assert "inferlane models serve tiny/v2 --acls" in said
        assert (await call(url, "POST", "/v1/models/predict", later))[0] == 404

        administrator = cluster.environment(ingress_partitions=1, work_partitions=1, **more)
        await asyncio.to_thread(run_cli, administrator, *serve, "--acls")
        stop = asyncio.Event()
        working = workers.main.serve(settings_of(cluster, Service.WORKER, **more), stop, model="tiny", version="v2")
        worker = asyncio.create_task(working)

        async def answers() -> bool:
            assert not worker.done(), worker
            return (await call(url, "POST", "/v1/models/predict", later))[0] == 200

        await eventually(answers)
        # From here on with the operator's rights alone.
        await asyncio.to_thread(run_cli, operator, "models", "default", "tiny/v2")

        async def is_default() -> bool:
            _, answer = await call(url, "POST", "/v1/models/predict", {"instances": [[1.0, 2.0, 3.0]]})
            return bool(answer.get("version") == "v2")

        await eventually(is_default)
        retired = await asyncio.to_thread(run_cli, operator, "models", "retire", "tiny/v1")
        assert "is retired" in retired
        assert "inferlane acls delete --version tiny/v1" in retired
        assert "kubectl delete deployment/inference-service-v1 " in retired
        pinned = {**later, "version": "v1"}
        assert (await call(url, "POST", "/v1/models/predict", pinned))[0] == 404
        stop.set()
        await worker
        # Its own rights go with a version, and no right of another one.
        kept = granted(cluster, "v1")
        shared = granted(cluster, NAMES.results)
        assert granted(cluster, "v2")
        assert kept
        assert shared
        gone = await asyncio.to_thread(run_cli, administrator, "models", "retire", "--now", "--acls", "tiny/v2")
        assert f"{len(kept)} rights of the services' users were deleted" in gone
        assert granted(cluster, "v2") == set()
        assert granted(cluster, "v1") == kept
        assert granted(cluster, NAMES.results) == shared


def granted(cluster: ApacheCluster, named: str) -> set[tuple[str, ...]]:
    """The rights on resources whose names hold this word, as the broker lists them."""
    anything = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
    )
    # Held: a future of a client that is gone fails.
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers})
    found = admin.describe_acls(anything).result(timeout=60)
    return {
        (acl.restype.name, acl.name, acl.principal, acl.operation.name)
        for acl in found
        if named in re.split(r"[.]", acl.name) or named == acl.name
    }

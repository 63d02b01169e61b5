"""A broker in a container, where a Docker API answers."""

from typing import Any, ClassVar

from tests.support.brokers.kinds import Broker, BrokerKind


class NoDockerError(RuntimeError):
    """No Docker API answers here."""


class ContainerBroker(Broker):
    """Apache Kafka in KRaft mode from the image that testcontainers chooses."""

    kind: ClassVar[BrokerKind] = BrokerKind.TESTCONTAINERS

    def __init__(self) -> None:
        self._container: Any = None

    @property
    def bootstrap_servers(self) -> str:
        return str(self._container.get_bootstrap_server())

    def open(self) -> None:
        require_docker()
        # Lazy: only this kind needs it.
        from testcontainers.kafka import KafkaContainer  # noqa: PLC0415

        self._container = KafkaContainer().with_kraft()
        self._container.start()

    def close(self) -> None:
        if self._container is not None:
            self._container.stop()


def require_docker() -> None:
    """Return if a Docker API answers.

    Raises:
        NoDockerError: none does.
    """
    # Lazy: only this kind needs Docker's client.
    import docker  # noqa: PLC0415

    try:
        docker.from_env().ping()
    except docker.errors.DockerException as error:
        raise NoDockerError(f"no Docker API answers: {error}") from error

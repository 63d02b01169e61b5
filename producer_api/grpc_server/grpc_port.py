"""The gRPC port: its limits, its certificate, and its drain."""

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from inferlane.errors import ConfigurationError
from inferlane.runtime.http.certificate import CertificateFiles, RenewedCertificate, make_context
from inferlane.runtime.http.connection_limits import connection_limit
from inferlane.runtime.retry import SystemClock
from producer_api.grpc_server.call_limits import CallLimits
from producer_api.grpc_server.call_routing import KEYED_PATHS, CallRouting
from producer_api.grpc_server.health_service import HealthService
from producer_api.grpc_server.infer_messages import InferMessages
from producer_api.grpc_server.infer_method import InferMethod
from producer_api.grpc_server.protocol_messages import POOL, SERVICE
from producer_api.inference_protocol.infer_format import AskedOutputs
from producer_api.inference_protocol.infer_request import InferReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from inferlane.runtime.service import Startup
    from inferlane.runtime.service_settings import ApiSettings
    from inferlane.runtime.settings import KafkaSettings, PortSettings
    from producer_api.http.auth import KeyRing
    from producer_api.routes.dependencies import Services

log = structlog.get_logger(__name__)

_HEALTH = "grpc.health.v1.Health"
# What a message has beside its tensors: names, shapes, parameters.
_MESSAGE_HEAD_BYTES = 64 * 1024
# Clients that keep idle connections open by pings are told to go away when they ping more often.
_MIN_PING_INTERVAL_MS = 10_000
# Too short costs clients connections, too long leaves new processes without calls.
_MAX_CONNECTION_AGE_MS = 300_000
# Calls that do not wait for a result, or are refused, and are open beside those that wait. More than `CallLimits` lets
# callers without a key hold, so that they cannot take the place of calls with one.
_SHORT_CALLS = 1_000
# The time for what is left of a call when its client is told already.
_LAST_WORK_S = 2.0


class GrpcPort:
    """The server of one process. `serve` and `drain` are the ends of its life that its process decides on."""

    def __init__(
        self,
        api: "ApiSettings",
        ports: "PortSettings",
        kafka: "KafkaSettings",
        *,
        startup: "Startup",
        keys: "KeyRing | None",
    ) -> None:
        """Read the certificate, if there is one.

        Raises:
            ConfigurationError: as `open_certificate`.
        """
        self._api, self._drain_deadline_s = api, kafka.drain_deadline_s
        self._routing = CallRouting(startup, keys)
        self._health = HealthService((SERVICE,), self._routing.is_ready)
        self._infer: InferMethod | None = None
        self.certificate = open_certificate(api)
        self._draining: asyncio.Task[None] | None = None
        self._limits = CallLimits(KEYED_PATHS, message_timeout_s=ports.body_timeout_s)
        self._server: Any = grpc.aio.server(
            handlers=(self._routing,),
            interceptors=(self._limits,),
            options=_options(api, ports, kafka),
            # Past the limit of waiting calls, which has an error that says more.
            maximum_concurrent_rpcs=api.max_waiting_requests + _SHORT_CALLS,
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, _HEALTH, reflection.SERVICE_NAME), self._server, POOL)

    async def start(self) -> int:
        """Listen; return the port that was bound. Calls are refused until `serve`.

        Raises:
            ConfigurationError: the port cannot be bound.
        """
        api = self._api
        host = f"[{api.host}]" if ":" in api.host else api.host
        address = f"{host}:{api.grpc_port}"
        certificate = self.certificate
        try:
            if certificate is None:
                port = self._server.add_insecure_port(address)
            else:
                credentials = grpc.dynamic_ssl_server_credentials(certificate.current, _renewal(certificate))
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise ConfigurationError(
                f"cannot listen on {address} for gRPC: {error}. Choose another port (INFERLANE_GRPC_PORT)."
            ) from error
        await self._server.start()
        return int(port)

    def serve(self, services: "Services") -> None:
        """Serve every call from now on."""
        outputs, reader = AskedOutputs(services.catalog), InferReader(services.settings.api, services.reader)
        self._infer = InferMethod(
            InferMessages(services.settings.api, reader, outputs),
            exchanges=services.exchanges,
            memory=services.body_memory,
            tracing=services.tracing,
        )
        self._routing.serve(services, self._infer)

    def drain(self) -> None:
        """Begin to stop: no new call is let in, and those that have their message have the time of the drain."""
        self._routing.drain()
        self._limits.drain()
        self._health.stop()
        if self._draining is None:
            self._draining = asyncio.create_task(self._server.stop(self._drain_deadline_s))

    async def close(self) -> None:
        """Return when every call is over."""
        self.drain()
        if self._draining is not None:
            await self._draining
        if self._infer is not None:
            await self._infer.finish(_LAST_WORK_S)


@asynccontextmanager
async def grpc_port(
    api: "ApiSettings", ports: "PortSettings", kafka: "KafkaSettings", *, startup: "Startup", keys: "KeyRing | None"
) -> "AsyncIterator[GrpcPort]":
    """Listen while the block runs.

    Raises:
        ConfigurationError: the port cannot be bound, or the certificate is not valid.
    """
    port = GrpcPort(api, ports, kafka, startup=startup, keys=keys)
    try:
        bound = await port.start()
        log.info("grpc_listens", host=api.host, port=bound, tls=api.grpc_ssl_certfile is not None)
        yield port
    finally:
        await port.close()


def _options(api: "ApiSettings", ports: "PortSettings", kafka: "KafkaSettings") -> list[tuple[str, Any]]:
    return [
        # Tensors and not messages are what the limit is about; the reader holds them to it exactly.
        ("grpc.max_receive_message_length", kafka.max_body_bytes + _MESSAGE_HEAD_BYTES),
        # Results have a limit of their own.
        ("grpc.max_send_message_length", -1),
        # A client that connects and never says more is cut off, with TLS or without.
        ("grpc.server_handshake_timeout_ms", int(ports.head_timeout_s * 1_000)),
        ("grpc.max_allowed_incoming_connections", connection_limit(ports.max_connections)),
        ("grpc.max_metadata_size", ports.max_head_bytes),
        ("grpc.absolute_max_metadata_size", ports.max_head_bytes),
        # A connection stays with its process however many there are; a new one may go to another.
        ("grpc.max_connection_age_ms", _MAX_CONNECTION_AGE_MS),
        ("grpc.max_connection_age_grace_ms", int((api.max_wait_s + kafka.drain_deadline_s) * 1_000)),
        ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_INTERVAL_MS),
        # Another process on the port would get half of the calls; that its port is taken is better known at once.
        ("grpc.so_reuseport", int(bool(api.peers))),
    ]


def open_certificate(api: "ApiSettings") -> RenewedCertificate[Any] | None:
    """Return the certificate of the gRPC port, or None if it has none.

    Raises:
        ConfigurationError: one of the two files is not named, they do not fit together, or the certificate has expired
            or is not valid yet.
    """
    files = CertificateFiles.named(
        api.grpc_ssl_certfile,
        api.grpc_ssl_keyfile,
        ("INFERLANE_GRPC_SSL_CERTFILE", "INFERLANE_GRPC_SSL_KEYFILE"),
    )
    return None if files is None else RenewedCertificate(files, _configuration, clock=SystemClock())


def _renewal(certificate: RenewedCertificate[Any]) -> "Callable[[], Any]":
    """Return what gRPC asks at each handshake, in a thread of its own, for a configuration that is not the last one."""
    served = certificate.current

    def renewed() -> Any:
        nonlocal served
        certificate.renew()
        # Others renew it too, so whether the files have just changed is no sign of what gRPC has.
        current = certificate.current
        if current is served:
            return None
        served = current
        return current

    return renewed


def _configuration(files: CertificateFiles) -> Any:
    # Says in words what is wrong with them, which gRPC does not.
    make_context(files)
    return grpc.ssl_server_certificate_configuration([(files.key.read_bytes(), files.chain.read_bytes())])

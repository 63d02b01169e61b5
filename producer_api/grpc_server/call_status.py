"""How a call ended: its status code, and the details of an error as gRPC's clients read them.

Sources: google.rpc.Status, ErrorInfo and RetryInfo (AIP-193); gRFC A6, "Pushback".
"""

from typing import Any, NamedTuple

import grpc
from google.rpc import error_details_pb2, status_pb2

from inferlane.contracts.results import Result
from inferlane.errors import InferlaneError, clipped
from producer_api.http.error_responses import GRPC_CODES, UnconfirmedError, retry_after_s, status_of, status_of_code

_DOMAIN = "inferlane"
# Clients refuse a response whose trailers have more than 8 KiB. The message is there twice, and a character that is not
# ASCII takes up to 12 bytes the first time.
_ASCII_CHARS, _OTHER_CHARS = 1_500, 350
_CODES: dict[str, Any] = {code.name: code for code in grpc.StatusCode}

Trailers = tuple[tuple[str, str | bytes], ...]


class CallStatus(NamedTuple):
    """The end of a call: `http_status` is what the REST form would have answered, for logs and metrics."""

    http_status: int
    message: str = ""
    trailers: Trailers = ()
    body: bytes = b""

    @property
    def code(self) -> Any:
        """GRPC's code."""
        return _CODES[GRPC_CODES[self.http_status]]


def status_of_error(error: InferlaneError) -> CallStatus:
    """Return the end of a call that failed with this error."""
    about = {"retryable": str(error.retryable).lower()}
    if isinstance(error, UnconfirmedError):
        about["request_id"] = error.request_id
    retry_s = retry_after_s(error) if error.retryable else None
    return _failed(status_of(error), error.code, str(error), about, retry_s=retry_s)


def status_of_result(result: Result) -> CallStatus:
    """Return the end of a call whose request ended without predictions."""
    about = {"request_id": result.request_id, "model": result.model, "prediction_status": result.status.value}
    if result.version:
        about["version"] = result.version
    code = result.error_code or InferlaneError.code
    return _failed(status_of_code(code), code, result.error_detail or "the request failed", about)


def status_of_waiting(message: str, *, request_id: str, location: str) -> CallStatus:
    """Return the end of a call whose wait ran out first; its request goes on."""
    status = _failed(504, "still_queued", message, {"request_id": request_id})
    return status._replace(trailers=(*status.trailers, ("location", location)))


def _failed(
    http_status: int, code: str, message: str, about: dict[str, str], *, retry_s: int | None = None
) -> CallStatus:
    message = clipped(message, limit_chars=_ASCII_CHARS if message.isascii() else _OTHER_CHARS)
    details = status_pb2.Status(code=_CODES[GRPC_CODES[http_status]].value[0], message=message)
    details.details.add().Pack(error_details_pb2.ErrorInfo(reason=code.upper(), domain=_DOMAIN, metadata=about))
    trailers: list[tuple[str, str | bytes]] = []
    if retry_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromSeconds(retry_s)
        details.details.add().Pack(retry)
        trailers += [("retry-after", str(retry_s)), ("grpc-retry-pushback-ms", str(retry_s * 1_000))]
    trailers.append(("grpc-status-details-bin", details.SerializeToString()))
    return CallStatus(http_status, message, tuple(trailers))

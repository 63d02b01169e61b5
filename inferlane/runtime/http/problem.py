"""Problem documents: what every port answers to a call that it does not serve. Source: RFC 9457."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec

CONTENT_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The reason why a message is not served, and the status of the answer."""

    status: HTTPStatus
    code: str
    detail: str
    retryable: bool = False


STOPPING = Refusal(
    status=HTTPStatus.SERVICE_UNAVAILABLE,
    code="unavailable",
    detail="this process stops, and the call had no answer within the time for that; send it again",
    retryable=True,
)


def encode_problem(
    status: int, code: str, detail: str, *, title: str | None = None, retryable: bool = False, **more: Any
) -> bytes:
    """Encode a problem document. Source: RFC 9457, section 3."""
    return msgspec.json.encode(
        {
            "type": f"urn:inferlane:problem:{code}",
            "title": title or HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            "code": code,
            "retryable": retryable,
            **more,
        }
    )


def closing_answer(refusal: Refusal, *, with_body: bool = True) -> bytes:
    """Encode a whole response that refuses a message and announces the end of the connection."""
    status = refusal.status
    body = encode_problem(status, refusal.code, refusal.detail, retryable=refusal.retryable)
    retry = "retry-after: 1\r\n" if refusal.retryable else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {CONTENT_TYPE}\r\n"
        f"content-length: {len(body)}\r\n{retry}connection: close\r\n\r\n"
    )
    return head.encode() + body if with_body else head.encode()


async def send_problem(
    send: Any,
    status: int,
    code: str,
    detail: str,
    *,
    retryable: bool = False,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Send a problem document through an ASGI `send`."""
    body = encode_problem(status, code, detail, retryable=retryable)
    described = [(b"content-type", CONTENT_TYPE.encode()), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": int(status), "headers": described})
    await send({"type": "http.response.body", "body": body})

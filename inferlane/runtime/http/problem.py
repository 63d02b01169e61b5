"""Refusals as RFC 9457 problem documents, for every port."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec

CONTENT_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a message is not served, and with which status it is answered."""

    status: HTTPStatus
    code: str
    detail: str
    retryable: bool = False


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

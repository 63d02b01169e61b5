"""What becomes of a record: one for its version's topic, or the reply to one that cannot be routed."""

import time
from typing import TYPE_CHECKING

import msgspec

from inferlane.contracts.dead_letters import stack_of
from inferlane.contracts.identity import PROOF_CHARS
from inferlane.contracts.kafka_record import OutRecord, format_time
from inferlane.contracts.naming import Lane
from inferlane.contracts.record import (
    FALLBACK,
    FALLEN_BACK_FROM,
    POSITION,
    PROOF,
    ROLLOUT,
    SHADOW_HEADERS,
    RequestHeaders,
    position_of,
)
from inferlane.contracts.results import Result
from inferlane.errors import CallbackRefusedError, InferlaneError
from inferlane.runtime.delivery import Reply
from router.routing import Route

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord


def refusal(record: "ConsumerRecord", lane: Lane, headers: RequestHeaders, error: InferlaneError) -> Reply:
    """The terminal reply of a record that cannot be routed: the request failed, and its record is dead-lettered."""
    return Reply(
        result=Result.failed(headers, error, now_s=time.time()),
        lane=lane,
        reply_to=headers.reply_to,
        batch_id=headers.batch_id,
        to_topic=lane is Lane.BULK or headers.reply_to is None,
        dead=record,
        stack=stack_of(error),
        trace_parent=headers.trace_parent,
        source=headers.source,
        position=headers.position,
        callback_url=None if isinstance(error, CallbackRefusedError) else headers.callback_url,
    )


def no_callbacks() -> CallbackRefusedError:
    """Return the error of a record that asks for a callback where none are sent."""
    return CallbackRefusedError(
        "the record has ce_callbackurl, and this deployment sends no callbacks; leave it out, or set "
        "INFERLANE_WEBHOOKS=on, run `inferlane webhooks` and replay the dead letter"
    )


# Headers that the router overwrites.
_ROUTER_HEADERS = SHADOW_HEADERS | {"ce_model", "ce_modelversion", POSITION, ROLLOUT, FALLBACK, FALLEN_BACK_FROM}
# Headers that the router adds where they are missing. Empty ones must go: readers refuse a record with a header twice.
_DEFAULTED = frozenset({"ce_id", "ce_time"})


class RoutedRecord(msgspec.Struct, frozen=True):
    """A record, the version that was chosen for it, and the record for that version's topic."""

    record: "ConsumerRecord"
    headers: RequestHeaders
    chosen: Route
    out: OutRecord


def routed_headers(record: "ConsumerRecord", headers: RequestHeaders, chosen: Route) -> list[tuple[str, bytes]]:
    """Return the record's headers, plus the chosen version, plus defaults for those that are missing or empty."""
    kept = [
        (name, value)
        for name, value in record.headers
        if name not in _ROUTER_HEADERS and (value or name not in _DEFAULTED)
    ]
    kept.append(("ce_model", chosen.model.encode()))
    kept.append(("ce_modelversion", chosen.version.encode()))
    held = dict(kept)
    if "ce_id" not in held:
        kept.append(("ce_id", headers.request_id.encode()))
    if "ce_time" not in held:
        kept.append(("ce_time", format_time(headers.accepted_s)))
    # The API's own requests need none, and only the worker finds out whether a proof proves anything.
    if len(held.get(PROOF) or b"") != PROOF_CHARS:
        kept.append((POSITION, position_of(record).encode()))
    return kept

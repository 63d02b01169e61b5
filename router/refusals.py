"""The reply to a record that the router cannot route."""

import time
from typing import TYPE_CHECKING

from inferlane.contracts.dead_letters import stack_of
from inferlane.contracts.naming import Lane
from inferlane.contracts.record import RequestHeaders
from inferlane.contracts.results import Result
from inferlane.errors import CallbackRefusedError, InferlaneError
from inferlane.runtime.delivery import Reply

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
    """The error of a record that asks for a callback where none are sent."""
    return CallbackRefusedError(
        "the record has ce_callbackurl, and this deployment sends no callbacks; leave it out, or set "
        "INFERLANE_WEBHOOKS=on, run `inferlane webhooks` and replay the dead letter"
    )

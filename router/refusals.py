"""The reply to a record that the router cannot route."""

import time
from typing import TYPE_CHECKING

from inferlane.contracts.dead_letters import stack_of
from inferlane.contracts.naming import Lane
from inferlane.contracts.record import RequestHeaders
from inferlane.contracts.results import Result
from inferlane.errors import InferlaneError
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
    )

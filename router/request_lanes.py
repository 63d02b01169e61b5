"""The router's lanes: how many records each batch has, and how many batches are in work."""

from typing import TYPE_CHECKING

from inferlane.contracts.naming import Lane
from inferlane.runtime.kafka.consumer import LaneConsumer
from inferlane.runtime.kafka.lanes import LaneOptions, Lanes

if TYPE_CHECKING:
    from inferlane.contracts.naming import Names
    from inferlane.runtime.kafka.attempts import AttemptLog
    from inferlane.runtime.retry import Retrier
    from inferlane.runtime.settings import KafkaSettings
    from router.forwarder import Forwarder

# Records of a batch. Fewer cost more round trips; more make one slow batch of many. A client's request waits for each
# step of a bulk batch, a millisecond or two.
_MIN_RECORDS = 32
_MAX_RECORDS = {Lane.REQUESTS: 2_000, Lane.BULK: 256}
# Batches in work at once: while a slow broker acknowledges one, the next is decided on. Bulk leaves time to clients.
_IN_FLIGHT = {Lane.REQUESTS: 2, Lane.BULK: 1}
# A broker on this machine acknowledges sooner: what comes meanwhile is one batch and not two (docs/adr/0042). One that
# is far does not, and a request must not wait for it.
_APART_S = 0.005


def batch_size(left: int, *, is_hurried: bool, at_most: int) -> int:
    """Return the most records of the next batch: those that the fetch before `left`, and a few at least. Pure.

    What came since is for the batch after it (gated service). Without that, records that were sent together stay
    together at every stage, and all the other stages are idle meanwhile. After a death (`is_hurried`) batches are
    small, to find its place.
    """
    return _MIN_RECORDS if is_hurried else min(max(left, _MIN_RECORDS), at_most)


def router_lanes(
    kafka: "KafkaSettings",
    names: "Names",
    forwarder: "Forwarder",
    retrier: "Retrier",
    *,
    attempt_log: "AttemptLog | None" = None,
) -> Lanes:
    """Return the lanes of the router: both request topics through the forwarder."""

    def options(lane: Lane, topic: str) -> LaneOptions:
        consumer = LaneConsumer(
            kafka,
            topic=topic,
            group=names.router_group,
            lane=lane,
            is_blocked=lambda: retrier.is_retrying,
            attempt_log=attempt_log,
            in_flight=_IN_FLIGHT[lane],
        )

        def max_records() -> int:
            return batch_size(consumer.left, is_hurried=consumer.is_hurried, at_most=_MAX_RECORDS[lane])

        return LaneOptions(consumer=consumer, max_records=max_records, in_flight=_IN_FLIGHT[lane], apart_s=_APART_S)

    lanes = {lane: options(lane, topic) for lane, topic in names.ingress.items()}
    return Lanes(lanes, work=forwarder.forward, give_up=forwarder.give_up, retrier=retrier)

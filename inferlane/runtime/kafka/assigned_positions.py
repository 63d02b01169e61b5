"""What a consumer knows of its assigned partitions, without a question to the broker."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiokafka import AIOKafkaConsumer, TopicPartition


def positions(consumer: "AIOKafkaConsumer") -> "dict[TopicPartition, int]":
    """Return the known positions of the assigned partitions: past all that was returned, or never will be."""
    return {partition: state.position for partition, state in _valid_states(consumer)}


def known_backlog(consumer: "AIOKafkaConsumer") -> int:
    """Return how many records past the positions the broker has told of: a lower bound of what waits."""
    return sum(max(0, (state.lso or 0) - state.position) for _, state in _valid_states(consumer))


def _valid_states(consumer: "AIOKafkaConsumer") -> "Iterator[tuple[TopicPartition, Any]]":
    """Yield the assigned partitions whose position is known, with aiokafka's state of each."""
    subscription = consumer._subscription.subscription  # noqa: SLF001 - `position()` waits where there is none yet
    assignment = subscription.assignment if subscription is not None else None
    if assignment is not None and assignment.active:
        for partition in assignment.tps:
            state = assignment.state_value(partition)
            if state.has_valid_position:
                yield partition, state

"""Notices to the receivers of `notify`: one callback for each event of a rollout and receiver. Pure."""

from hashlib import blake2b

import msgspec

from inferlane.contracts.callbacks import Notice, notice_record
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.rollout import RolloutEvent, RolloutState


def last_number(state: RolloutState) -> int:
    """Return the number of the newest event, 0 before the first."""
    return state.events[-1].number if state.events else 0


def has_told(state: RolloutState) -> bool:
    """Return whether there is nothing left to tell."""
    return not state.spec.notify or state.notified >= last_number(state)


def notices_of(state: RolloutState, topic: str) -> list[OutRecord]:
    """Return the records for the events that nobody was told of for sure, oldest first."""
    return [
        notice_record(topic, url, _notice(state, event, url))
        for event in state.events
        if event.number > state.notified
        for url in state.spec.notify
    ]


def _notice(state: RolloutState, event: RolloutEvent, url: str) -> Notice:
    spec = state.spec
    # After a crash the same notice may be sent again: receivers recognise duplicates by its id.
    receiver = blake2b(url.encode(), digest_size=6).hexdigest()
    return Notice(
        notice_id=f"{state.id}-{event.number}-{receiver}",
        kind=f"rollout.{event.phase}",
        about=state.id,
        model=spec.model,
        version=spec.candidate,
        at_s=event.at_s,
        # Signed with the secret of the API key that started the rollout.
        caller=state.events[0].by,
        data={
            "rollout": state.id,
            "model": spec.model,
            "stable": spec.stable,
            "candidate": spec.candidate,
            **msgspec.to_builtins(event),
            "phase": event.phase,
        },
    )

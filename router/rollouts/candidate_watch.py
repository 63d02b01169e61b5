"""What the host finds out of a candidate's pool: its workers, what waits for them, and the answer to its probe.

The probe is one row of zeros in the candidate's interactive topic, pinned to it. Whatever scales the pool sees it wait
and starts the first worker. It counts in no rollout and nobody but the host looks at its result.
"""

import asyncio
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from inferlane.contracts.identity import committed_id
from inferlane.contracts.kafka_record import OutRecord, format_time
from inferlane.contracts.naming import Lane
from inferlane.contracts.record import JSON_CONTENT, PROOF, REQUEST_TYPE, SPEC_VERSION
from inferlane.contracts.results import Status
from inferlane.contracts.wire.zero_rows import one_row_body
from inferlane.errors import InferlaneError
from inferlane.runtime.kafka.lag import BacklogReader, OldestAge
from inferlane.runtime.kafka.offsets import Position, Subscription
from router.rollouts.guards import CandidatePool
from router.rollouts.lane_slots import workers_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferlane.contracts.naming import Names
    from inferlane.contracts.rollout import RolloutSpec, RolloutState
    from inferlane.contracts.windows import Slot
    from inferlane.runtime.kafka.producer import BatchProducer
    from inferlane.runtime.redis.result_store import ResultStore
    from inferlane.runtime.retry import Clock
    from inferlane.runtime.service_settings import ApiSettings
    from inferlane.runtime.settings import KafkaSettings
    from models.live_catalog import AnyCatalog

log = structlog.get_logger(__name__)

_READ_WITHIN_S = 10.0
_SOURCE = b"inferlane-rollout"
# No API instance is called so: a result that somebody waits for is not sent to the topic of results.
_NOBODY = b"rollout-probe"
# Some models take no empty text.
_TEXT = "a text"


def probe_record(state: "RolloutState", catalog: "AnyCatalog", names: "Names") -> OutRecord:
    """The probe of a rollout's candidate. It has one id, whoever makes it and how often: the store keeps one result.

    It has no deadline, for it waits as long as the pool takes to start.

    Raises:
        InferlaneError: the catalogue does not have the candidate.
    """
    spec = state.spec
    payload = one_row_body(catalog.model(spec.model).version(spec.candidate).signature, text=_TEXT)
    proof, model = f"probe of {state.id}".encode(), spec.model.encode()
    probe = committed_id(proof, source=_SOURCE, caller=b"", model=model, payload=payload).encode()
    headers = [
        SPEC_VERSION,
        REQUEST_TYPE,
        ("ce_source", _SOURCE),
        ("content-type", JSON_CONTENT),
        ("ce_id", probe),
        ("ce_time", format_time(state.phase_since_s)),
        ("ce_model", model),
        ("ce_modelversion", spec.candidate.encode()),
        ("ce_replyto", _NOBODY),
        (PROOF, proof),
    ]
    return OutRecord(names.work_topic(spec.model, spec.candidate, Lane.REQUESTS), probe, payload, headers)


class CandidateWatch:
    """Looks at the candidates' pools. One event loop."""

    def __init__(  # noqa: PLR0913 - parts of the settings, and what it works with
        self,
        api: "ApiSettings",
        kafka: "KafkaSettings",
        names: "Names",
        *,
        catalog: "AnyCatalog",
        producer: "BatchProducer",
        results: "ResultStore",
        clock: "Clock",
    ) -> None:
        self._api = api
        self._names = names
        self._catalog = catalog
        self._producer = producer
        self._results = results
        self._clock = clock
        self._reader = BacklogReader(kafka)
        self._ages: dict[Subscription, OldestAge] = {}
        # By rollout, the term and the wait for which its probe was sent.
        self._sent: dict[str, tuple[int, float]] = {}

    async def close(self) -> None:
        """Close the client."""
        await self._reader.close()

    def forget(self, state: "RolloutState") -> None:
        """Forget a rollout on which nobody decides here."""
        self._sent.pop(state.id, None)
        for waiting in self._subscriptions(state.spec).values():
            self._ages.pop(waiting, None)

    async def send_probe(self, state: "RolloutState") -> None:
        """See to it that the probe is in the topic: once for each term and each wait, and again if it failed."""
        wait = (state.generation, state.phase_since_s)
        if self._sent.get(state.id) == wait:
            return
        try:
            await self._producer.send([probe_record(state, self._catalog, self._names)])
        except InferlaneError as error:
            log.warning("probe_not_sent", rollout=state.id, error=str(error))
            return
        self._sent[state.id] = wait
        log.info("probe_sent", rollout=state.id, model=state.spec.model, version=state.spec.candidate)

    async def look(self, state: "RolloutState", candidate: "Sequence[Slot]", *, now_s: float) -> CandidatePool:
        """The pool by the candidate's slots, its backlog and, while the rollout prepares, its probe."""
        pool = workers_of(candidate, since_s=state.step_since_s, now_s=now_s)
        pool = await self._with_backlog(state, pool)
        return await self._with_probe(state, pool) if state.awaits_probe else pool

    async def _with_backlog(self, state: "RolloutState", pool: CandidatePool) -> CandidatePool:
        spec = state.spec
        lanes = self._subscriptions(spec)
        try:
            async with asyncio.timeout(_READ_WITHIN_S):
                found = await self._reader.read_partitions(list(lanes.values()))
        except (InferlaneError, TimeoutError) as error:
            log.warning("rollout_backlog_not_read", rollout=state.id, error=repr(error))
            return pool
        lag = sum(Position.of(partitions).lag_records for partitions in found.values())
        now_s = self._clock.monotonic_s()
        ages = {
            lane: self._ages.setdefault(waiting, OldestAge()).note(found[waiting], at_s=now_s)
            for lane, waiting in lanes.items()
            if waiting in found
        }
        deadline_s = self._api.default_deadline_s if Lane.REQUESTS in spec.lanes else math.inf
        return replace(
            pool,
            lag_records=lag,
            oldest_s=ages.get(Lane.REQUESTS, 0.0),
            waits_s=max(ages.values(), default=0.0),
            deadline_s=deadline_s,
        )

    def _subscriptions(self, spec: "RolloutSpec") -> dict[Lane, Subscription]:
        names, group = self._names, self._names.worker_group(spec.model, spec.candidate)
        return {lane: Subscription(names.work_topic(spec.model, spec.candidate, lane), group) for lane in Lane}

    async def _with_probe(self, state: "RolloutState", pool: CandidatePool) -> CandidatePool:
        try:
            probe = probe_record(state, self._catalog, self._names).key.decode()
            result = (await self._results.get([probe]))[0]
        except InferlaneError as error:
            log.warning("probe_not_read", rollout=state.id, error=str(error))
            return pool
        if result is None:
            return pool
        if result.status is Status.SUCCEEDED:
            return replace(pool, is_probed=True)
        return replace(pool, probe_error=result.error_detail or str(result.status))

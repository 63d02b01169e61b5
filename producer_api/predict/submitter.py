"""The way of a predict call through the queue: enqueue it, wait for its result, and respond in time in any case."""

import asyncio
from typing import TYPE_CHECKING, NoReturn

import structlog

from inferlane.contracts.naming import Lane
from inferlane.contracts.results import Accepted, Result
from inferlane.errors import OverloadedError, UnavailableError
from inferlane.runtime.metrics.api_metrics import ACCEPTED
from producer_api.http.error_responses import ClientGoneError, UnconfirmedError
from producer_api.predict.cancellation import ClientDisconnect, accepted_headers, cancel_request
from producer_api.predict.pending import answer_within, store_is_late
from producer_api.predict.request_records import RequestRecords
from producer_api.predict.result_waits import ResultWaits
from producer_api.predict.submission import Acknowledged, Submission, WaitingCall, end_with

if TYPE_CHECKING:
    from prometheus_client import Counter

    from inferlane.contracts.naming import Names
    from inferlane.errors import InferlaneError
    from inferlane.runtime.redis.cancellations import Cancellations
    from inferlane.runtime.retry import Clock
    from inferlane.runtime.service_settings import ApiSettings
    from inferlane.runtime.settings import StoreSettings
    from models.catalog import Catalog
    from models.live_catalog import AnyCatalog
    from producer_api.predict.admission import Admission
    from producer_api.predict.call import Call
    from producer_api.predict.pending import PendingRequests
    from producer_api.predict.store_capacity import StoreCapacity
    from producer_api.predict.telemetry import RequestQueue

log = structlog.get_logger(__name__)


class Submitter:
    """Enqueues checked calls and returns their results. One event loop."""

    def __init__(  # noqa: PLR0913 - one for each part that it drives
        self,
        api: "ApiSettings",
        store: "StoreSettings",
        names: "Names",
        *,
        catalog: "AnyCatalog",
        enqueuer: "RequestQueue",
        pending: "PendingRequests",
        admission: "Admission",
        store_capacity: "StoreCapacity",
        cancellations: "Cancellations",
        clock: "Clock",
    ) -> None:
        self._api = api
        self._store = store
        topic = names.ingress[Lane.REQUESTS]
        self._records = RequestRecords(catalog, topic=topic, instance=pending.instance)
        self._admission = admission
        self._store_capacity = store_capacity
        self._enqueuer = enqueuer
        self._pending = pending
        # Every call that waits for a result waits here, whether it made the request, joined it or asks for its id.
        self.waits = ResultWaits(pending, clock=clock, slots=api.max_waiting_requests)
        self._cancellations = cancellations
        self._clock = clock
        # The same for every request of a model, so built once.
        self._accepted: dict[str, Counter] = {}
        catalog.on_change(self._learn)

    def _learn(self, catalog: "Catalog") -> None:
        for name in catalog.models.keys() - self._accepted.keys():
            self._accepted[name] = ACCEPTED.labels(name)

    async def submit_and_wait(self, call: "Call", *, disconnect: ClientDisconnect | None = None) -> Result | None:
        """Enqueue the request and return its result, or None if the wait ran out first; the request then goes on.

        If the client disconnects meanwhile, as `disconnect` tells, the request is cancelled.

        Raises:
            ClientGoneError: the client disconnected.
            OverloadedError: the backlog is too long for the deadline, or the store is full; nothing was enqueued.
            UnconfirmedError: the broker or the store did not confirm the request in time.
            UnavailableError: the broker refused the request.
        """
        self._admit(call)
        with self.waits.waiter(call.model, call.request_id) as waiter:
            acknowledged: Acknowledged = waiter.get_loop().create_future()

            def on_acknowledged(error: "InferlaneError | None") -> None:
                self._acknowledge(acknowledged, call, error)
                if error is not None and not waiter.done():
                    waiter.set_result(None)

            ticket = self._enqueuer.enqueue(self._records.record(call), on_acknowledged)
            if disconnect is not None:
                disconnect.resolves(waiter)
            result = await self.waits.until(waiter, until_s=call.wait_until_s, deadline_s=call.deadline_s)
            if result is None and disconnect is not None and disconnect.has_happened:
                await self._cancel_abandoned(call, ticket)
            if result is None:
                result = await self._accept_unanswered(call, ticket, acknowledged)
            return result

    def begin(self, call: "Call", waiting: WaitingCall) -> None:
        """Enqueue the request, and end `waiting` with what `submit_and_wait` would return or raise.

        No task waits meanwhile. Only if the wait runs out, the rest is done in one.

        Raises:
            OverloadedError: as `submit_and_wait`; nothing was enqueued, and `waiting` is not ended.
        """
        self._admit(call)
        submission = Submission(self.waits, call, waiting, on_unanswered=self._end_unanswered)

        def on_acknowledged(error: "InferlaneError | None") -> None:
            if error is None:
                self._accepted[call.model].inc()
            submission.acknowledge(error)

        try:
            submission.ticket = self._enqueuer.enqueue(self._records.record(call), on_acknowledged)
        except BaseException:
            submission.withdraw()
            raise

    async def _end_unanswered(self, submission: Submission) -> None:
        """Do what follows for a request whose wait ran out, and end its call with the outcome."""
        steps = self._accept_unanswered(submission.call, submission.ticket, submission.acknowledged())
        await end_with(steps, submission.end)

    async def _accept_unanswered(self, call: "Call", ticket: int, acknowledged: "Acknowledged") -> Result | None:
        """Confirm a request whose wait ran out: it is accepted once the broker has it and the store has marked it."""
        await self._confirm(call, ticket, acknowledged)
        unnoted = self._unconfirmed(call, "the broker has the request, but the result store did not note it")
        try:
            async with answer_within(self.left_s(call), unnoted):
                # Mark it before the last read: a result that is stored in between is read, or removes the mark.
                await self._mark_accepted(call)
                known = await self.waits.read(call.request_id, key=call.request_id)
        except UnconfirmedError:
            raise
        except UnavailableError as error:
            raise unnoted from error
        return known if isinstance(known, Result) else None

    async def _confirm(self, call: "Call", ticket: int, acknowledged: "Acknowledged") -> None:
        """Return once the broker has the request.

        Raises:
            UnconfirmedError: the broker did not confirm it in time.
            UnavailableError: the broker refused it, or it was withdrawn before it was sent.
        """
        unsaid = self._unconfirmed(call, "the broker did not say whether it has the request")
        try:
            async with answer_within(self.left_s(call), unsaid):
                error = await acknowledged
        except UnconfirmedError:
            if self._enqueuer.withdraw(ticket):
                raise UnavailableError(
                    "the broker accepts no records at present, so the request was not enqueued within the time of this "
                    "call; send it again later"
                ) from None
            raise
        if error is not None:
            raise error

    async def _cancel_abandoned(self, call: "Call", ticket: int) -> NoReturn:
        """Cancel a request whose client disconnected, because nobody else knows its id.

        Raises:
            ClientGoneError: always.
        """
        if not self._enqueuer.withdraw(ticket):
            headers = accepted_headers(call.request_id, call.request_id, self._acceptance(call))
            time_s = self._api.default_wait_s
            late = store_is_late(time_s, done="the request of a disconnected client is computed all the same")
            try:
                async with answer_within(time_s, late):
                    await cancel_request(self._pending.store, self._cancellations, headers, now_s=self._clock.now_s())
            except UnavailableError as error:
                log.warning("abandoned_request_not_cancelled", request_id=call.request_id, error=str(error))
        raise ClientGoneError("the client closed its connection before the response; its request is cancelled")

    async def submit(self, call: "Call") -> None:
        """Mark the request as accepted, enqueue it, and return once the broker has it.

        Raises:
            OverloadedError: the backlog is too long for the deadline, or the store is full; nothing was enqueued.
            UnconfirmedError: the broker did not confirm the request in time.
            UnavailableError: the broker did not take the request, or the store could not mark it.
        """
        self._admit(call)
        acknowledged: Acknowledged = asyncio.get_running_loop().create_future()
        time_s = self.left_s(call)
        async with answer_within(time_s, store_is_late(time_s, done="nothing was enqueued, so send it again")):
            await self._mark_accepted(call)
        record = self._records.record(call)
        ticket = self._enqueuer.enqueue(record, lambda error: self._acknowledge(acknowledged, call, error))
        await self._confirm(call, ticket, acknowledged)

    async def join(self, call: "Call", *, waits_for_result: bool) -> Result | None:
        """Return the result of a request that was enqueued before, or None if there is none yet.

        If `waits_for_result`, wait for it as long as the call does, or until the request's deadline. While the store
        does not answer, there is none: the request is accepted, whatever becomes of this look.

        Raises:
            OverloadedError: too many calls wait in this process.
        """
        request_id, time_s = call.request_id, self.left_s(call)
        known: Result | Accepted | None = None
        try:
            async with answer_within(time_s, store_is_late(time_s, done="the result is looked for later")):
                known = await (
                    self.waits.wait(request_id, key=request_id, model=call.model, until_s=call.wait_until_s)
                    if waits_for_result
                    else self.waits.read(request_id, key=request_id)
                )
        except OverloadedError:
            raise
        except UnavailableError as error:
            log.info("result_not_read", request_id=request_id, error=str(error))
        return known if isinstance(known, Result) else None

    def left_s(self, call: "Call") -> float:
        """Return the seconds that are left to respond to the call: the rest of its wait, and the grace period."""
        return call.wait_until_s + self._api.answer_grace_s - self._clock.monotonic_s()

    def _unconfirmed(self, call: "Call", what: str) -> UnconfirmedError:
        return UnconfirmedError(
            f"{what} within {call.wait_s + self._api.answer_grace_s:.1f} s, so it may be answered or not; send it "
            "again, best with the same Idempotency-Key, under which it is computed once",
            request_id=call.request_id,
        )

    def _acknowledge(self, acknowledged: "Acknowledged", call: "Call", error: "InferlaneError | None") -> None:
        if error is None:
            self._accepted[call.model].inc()
        if not acknowledged.done():
            acknowledged.set_result(error)

    def _admit(self, call: "Call") -> None:
        self._store_capacity.admit()
        self._admission.admit(call.model, call.version, within_s=max(0.0, call.deadline_s - self._clock.now_s()))

    async def _mark_accepted(self, call: "Call") -> None:
        ttl_s = call.deadline_s - call.accepted_s + self._store.result_ttl_s
        await self._pending.store.mark_accepted(call.request_id, self._acceptance(call), ttl_s=ttl_s)

    @staticmethod
    def _acceptance(call: "Call") -> Accepted:
        return Accepted(
            model=call.model,
            version=call.version,
            accepted_s=call.accepted_s,
            deadline_s=call.deadline_s,
            caller=call.caller,
        )

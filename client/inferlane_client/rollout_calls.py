"""The rollouts of a server, for both clients: `client.rollouts`."""

from collections.abc import Mapping, Sequence
from typing import Any

from inferlane_client.callers import AsyncCaller, Caller
from inferlane_client.rollout_answers import Rollout


class Rollouts:
    """Starts rollouts, looks at them, and tells them what to do. Changes need an `admin` key.

    A change is sent once: after `ConnectionFailed` or `TimedOut` look with `list` whether it was carried out.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._exchanges = caller.exchanges.rollouts

    def start(  # noqa: PLR0913 - what most rollouts name
        self,
        candidate: str,
        *,
        model: str | None = None,
        stable: str | None = None,
        steps: Sequence[str | float] | None = None,
        checks: Mapping[str, Mapping[str, Any]] | None = None,
        reason: str = "",
        timeout_s: float | None = None,
        **more: Any,
    ) -> Rollout:
        """Start a rollout and return it once a router has it. What is left out has the server's default.

        Args:
            candidate: the version that is to get the traffic.
            model: its model; None: the default one.
            stable: the version to compare with; None: the one with the largest weight.
            steps: such as `["shadow 10% for 2000 requests", "1%", "5% for 10m", 50]`.
            checks: the checks by name, each with its options: `{"errors": {"margin": 0.005}, "share": {}}`.
            reason: it is kept in the history.
            timeout_s: the time of this call.
            **more: other fields of `rollout.yaml`: `each`, `bake`, `lanes`, `fallback`, `on_failure`, `notify`, ….

        Raises:
            InvalidRequest: a field cannot be carried out, or another rollout of the model is not over.
            NotFound: no such model or version.
            Forbidden: the key has not the scope.
            Unavailable: no router decides now.
        """
        return self._caller.run(
            self._exchanges.start(
                candidate,
                model=model,
                stable=stable,
                steps=steps,
                checks=checks,
                reason=reason,
                more=more,
                timeout_s=self._caller.time_of(timeout_s),
            )
        )

    def list(self) -> tuple[Rollout, ...]:
        """Every rollout, the newest first, each with its last event alone."""
        return self._caller.run(self._exchanges.list(timeout_s=self._caller.time_of(None)))

    def get(self, rollout: str) -> Rollout:
        """The rollout of this id, with its history.

        Raises:
            NotFound: there is none.
        """
        return self._caller.run(self._exchanges.get(rollout, timeout_s=self._caller.time_of(None)))

    def wait(self, rollout: str, *, timeout_s: float | None = None) -> Rollout:
        """Return the rollout once it is over or paused.

        Raises:
            NotFound: there is none.
            TimedOut: it goes on.
        """
        return self._caller.run(self._exchanges.wait(rollout, timeout_s=self._caller.time_of(timeout_s)))

    def pause(self, rollout: str, *, reason: str = "") -> Rollout:
        """Keep the weights as they are; checks go on. Errors are those of `promote`."""
        return self._command(rollout, "pause", reason)

    def resume(self, rollout: str, *, reason: str = "") -> Rollout:
        """Go on where it paused, and accept what has failed so far. Errors are those of `promote`."""
        return self._command(rollout, "resume", reason)

    def promote(self, rollout: str, *, reason: str = "") -> Rollout:
        """Give the candidate all traffic now.

        Raises:
            NotFound: there is no such rollout.
            InvalidRequest: it is in a phase that has no such command; the detail says what to do.
            Forbidden: the key has not the scope.
            Unavailable: no router decides now.
        """
        return self._command(rollout, "promote", reason)

    def abort(self, rollout: str, *, reason: str) -> Rollout:
        """Take the candidate's traffic away. Errors are those of `promote`."""
        return self._command(rollout, "abort", reason)

    def _command(self, rollout: str, action: str, reason: str) -> Rollout:
        return self._caller.run(self._exchanges.command(rollout, action, reason, timeout_s=self._caller.time_of(None)))


class AsyncRollouts:
    """The rollouts of a server, as `Rollouts`, on one event loop."""

    def __init__(self, caller: AsyncCaller) -> None:
        self._caller = caller
        self._exchanges = caller.exchanges.rollouts

    async def start(  # noqa: PLR0913 - as `Rollouts.start`
        self,
        candidate: str,
        *,
        model: str | None = None,
        stable: str | None = None,
        steps: Sequence[str | float] | None = None,
        checks: Mapping[str, Mapping[str, Any]] | None = None,
        reason: str = "",
        timeout_s: float | None = None,
        **more: Any,
    ) -> Rollout:
        """Start a rollout. Arguments and errors are those of `Rollouts.start`."""
        steps_of_call = self._exchanges.start(
            candidate,
            model=model,
            stable=stable,
            steps=steps,
            checks=checks,
            reason=reason,
            more=more,
            timeout_s=self._caller.time_of(timeout_s),
        )
        return await self._caller.run(steps_of_call)

    async def list(self) -> tuple[Rollout, ...]:
        """Every rollout. Errors are those of `Rollouts.list`."""
        return await self._caller.run(self._exchanges.list(timeout_s=self._caller.time_of(None)))

    async def get(self, rollout: str) -> Rollout:
        """The rollout of this id. Errors are those of `Rollouts.get`."""
        return await self._caller.run(self._exchanges.get(rollout, timeout_s=self._caller.time_of(None)))

    async def wait(self, rollout: str, *, timeout_s: float | None = None) -> Rollout:
        """Return the rollout once it is over or paused. Errors are those of `Rollouts.wait`."""
        return await self._caller.run(self._exchanges.wait(rollout, timeout_s=self._caller.time_of(timeout_s)))

    async def pause(self, rollout: str, *, reason: str = "") -> Rollout:
        """Keep the weights as they are. Errors are those of `Rollouts.promote`."""
        return await self._command(rollout, "pause", reason)

    async def resume(self, rollout: str, *, reason: str = "") -> Rollout:
        """Go on where it paused. Errors are those of `Rollouts.promote`."""
        return await self._command(rollout, "resume", reason)

    async def promote(self, rollout: str, *, reason: str = "") -> Rollout:
        """Give the candidate all traffic now. Errors are those of `Rollouts.promote`."""
        return await self._command(rollout, "promote", reason)

    async def abort(self, rollout: str, *, reason: str) -> Rollout:
        """Take the candidate's traffic away. Errors are those of `Rollouts.promote`."""
        return await self._command(rollout, "abort", reason)

    async def _command(self, rollout: str, action: str, reason: str) -> Rollout:
        steps = self._exchanges.command(rollout, action, reason, timeout_s=self._caller.time_of(None))
        return await self._caller.run(steps)

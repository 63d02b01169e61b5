"""What the calls of rollouts send, without I/O, for the sync and the async client."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from inferlane_client.answers import read_object
from inferlane_client.call_errors import refusal
from inferlane_client.request import encode_json
from inferlane_client.retries import Pause, ReplyForm, Retries, RetryingSender, Send, Steps, timed_out
from inferlane_client.rollout_answers import Rollout, RolloutPhase, read_rollout, read_rollouts

_PATH = "/v1/rollouts"
_LOOK_S = 1.0
_FORM = ReplyForm(is_answer=lambda reply: reply.status in {HTTPStatus.OK, HTTPStatus.CREATED}, refusal=refusal)


class RolloutExchanges:
    """The calls of one client.

    What changes a rollout is sent once: where no answer comes nobody knows whether it was carried out, and a second
    start would be refused because of the first one.
    """

    def __init__(self, sender: RetryingSender) -> None:
        self._sender = sender
        self._once = sender.with_retries(Retries(limit=0))

    def start(  # noqa: PLR0913 - as `Rollouts.start`
        self,
        candidate: str,
        *,
        model: str | None,
        stable: str | None,
        steps: Sequence[str | float] | None,
        checks: Mapping[str, Mapping[str, Any]] | None,
        reason: str,
        more: Mapping[str, Any],
        timeout_s: float,
    ) -> Steps[Rollout]:
        """Start a rollout; what is None or empty has the server's default."""
        named = {"model": model, "stable": stable, "steps": steps, "checks": checks, "reason": reason or None}
        body = {"candidate": candidate, **more} | {name: value for name, value in named.items() if value is not None}
        return self._changed(_PATH, body, timeout_s)

    def command(self, rollout: str, action: str, reason: str, *, timeout_s: float) -> Steps[Rollout]:
        """Tell a rollout what to do."""
        return self._changed(f"{_path_of(rollout)}/{action}", {"reason": reason}, timeout_s)

    def get(self, rollout: str, *, timeout_s: float) -> Steps[Rollout]:
        """A rollout with its history."""
        document = yield from self._document(_path_of(rollout), timeout_s)
        return read_rollout(document)

    def list(self, *, timeout_s: float) -> Steps[tuple[Rollout, ...]]:
        """Every rollout."""
        document = yield from self._document(_PATH, timeout_s)
        return read_rollouts(document)

    def wait(self, rollout: str, *, timeout_s: float) -> Steps[Rollout]:
        """Ask until the rollout is over or paused."""
        deadline = self._sender.deadline(timeout_s)
        while True:
            found = yield from self.get(rollout, timeout_s=deadline.left_s())
            if found.phase.is_over or found.phase is RolloutPhase.PAUSED:
                return found
            if deadline.left_s() <= _LOOK_S:
                raise timed_out(f"the rollout {rollout} is still {found.phase}, it", deadline, key=None)
            yield Pause(_LOOK_S)

    def _changed(self, path: str, body: Mapping[str, Any], timeout_s: float) -> Steps[Rollout]:
        headers = {"content-type": "application/json"}
        send = Send(method="POST", path=path, body=encode_json(body), headers=headers)
        reply = yield from self._once.answered(lambda: send, self._sender.deadline(timeout_s), form=_FORM)
        return read_rollout(read_object(reply.body))

    def _document(self, path: str, timeout_s: float) -> Steps[dict[str, Any]]:
        send = Send(method="GET", path=path)
        reply = yield from self._sender.answered(lambda: send, self._sender.deadline(timeout_s), form=_FORM)
        return read_object(reply.body)


def _path_of(rollout: str) -> str:
    return f"{_PATH}/{quote(rollout, safe='')}"

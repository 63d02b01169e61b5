"""Write the decisions of a rollout host: records of states, splits and commands, notices, and gauges."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.rollout import Command, Phase, RolloutState, encode_rollout, key_of
from inferlane.contracts.rollout_actions import current_rollouts
from inferlane.contracts.traffic_split import encode_split
from inferlane.runtime.metrics.router_metrics import ROLLOUT_EVIDENCE, ROLLOUT_PAUSED, ROLLOUT_PHASE
from inferlane.runtime.rollout_table import remove_command
from router.rollouts.notices import notices_of

if TYPE_CHECKING:
    from inferlane.contracts.naming import Names
    from inferlane.contracts.traffic_split import Split
    from inferlane.runtime.kafka.producer import BatchProducer
    from inferlane.runtime.settings import KafkaSettings

_JSON = [("content-type", b"application/json")]


class RolloutWriter:
    """Writes the decisions of a host: states and splits, and the removal of executed commands."""

    def __init__(self, kafka: "KafkaSettings", names: "Names", producer: "BatchProducer") -> None:
        self._kafka = kafka
        self._names = names
        self._producer = producer

    async def state(self, state: RolloutState) -> None:
        """Return when the state is written."""
        names = self._names
        await self._producer.send([OutRecord(names.rollouts, key_of(state), encode_rollout(state), _JSON)])

    async def split(self, split: "Split") -> None:
        """Return when the split is written."""
        names = self._names
        await self._producer.send([OutRecord(names.splits, split.model.encode(), encode_split(split), _JSON)])

    async def tell(self, state: RolloutState) -> None:
        """Return when a notice of every event of the state is durable."""
        await self._producer.send(notices_of(state, self._names.callbacks))

    async def done(self, command: Command) -> None:
        """Return when the command is removed."""
        await remove_command(self._kafka, self._names, command)


def show_rollouts(states: Sequence[RolloutState], *, now_s: float) -> None:
    """Set the gauges of each model to those of its rollout under way, or else of the one that ended last."""
    for model, state in current_rollouts(states).items():
        for phase in Phase:
            ROLLOUT_PHASE.labels(model, phase).set(phase is state.phase)
        for verdict in state.verdicts:
            ROLLOUT_EVIDENCE.labels(model, verdict.check).set(verdict.log_evidence or 0.0)
        is_paused = state.phase is Phase.PAUSED
        ROLLOUT_PAUSED.labels(model).set(now_s - state.phase_since_s if is_paused else 0.0)


def forget_rollouts() -> None:
    """Remove the gauges: another router decides now."""
    for gauge in (ROLLOUT_PHASE, ROLLOUT_EVIDENCE, ROLLOUT_PAUSED):
        gauge.clear()

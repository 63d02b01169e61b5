"""Rollouts: their states and the commands to them, kept in a compacted topic that every replica reads whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from inferlane.contracts.rollout import Command, RolloutState, decode_rollout, encode_rollout, key_of
from inferlane.errors import DecodeError, UnknownRolloutError, quoted
from inferlane.runtime.compacted_table import CompactedTable
from inferlane.runtime.table_keeper import TableKeeper
from inferlane.runtime.table_writes import publish_to_table

if TYPE_CHECKING:
    from inferlane.contracts.naming import Names
    from inferlane.runtime.settings import KafkaSettings

# The most rollouts and commands in a table: a writer to the topic could invent any number. Beyond it the oldest of the
# rollouts that are over is forgotten.
_MAX_RECORDS = 1_000


@dataclass(frozen=True, slots=True)
class GivenCommand:
    """A command, and the offset that identifies it."""

    offset: int
    command: Command


class RolloutTable(CompactedTable):
    """Every rollout, as its controller last wrote it, and every command without a decision.

    A state with a smaller generation or an older revision than the one in the table is ignored: its writer had
    been replaced.
    """

    what = "rollout"

    def __init__(self) -> None:
        super().__init__()
        self._states: dict[str, RolloutState] = {}
        self._commands: dict[str, GivenCommand] = {}
        self._reading_offset = -1

    def get(self, rollout: str) -> RolloutState:
        """Return the state of a rollout.

        Raises:
            UnknownRolloutError: there is no rollout with this id.
        """
        found = self._states.get(rollout)
        if found is None:
            raise UnknownRolloutError(f"there is no rollout {quoted(rollout)}; GET /v1/rollouts lists them")
        return found

    def find(self, rollout: str) -> RolloutState | None:
        """Return the state of a rollout, None if there is none."""
        return self._states.get(rollout)

    @property
    def states(self) -> Sequence[RolloutState]:
        """Every state, the newest rollout first."""
        return sorted(self._states.values(), key=lambda state: state.created_s, reverse=True)

    @property
    def commands(self) -> Sequence[GivenCommand]:
        """The commands without a decision, in their order."""
        return sorted(self._commands.values(), key=lambda given: given.offset)

    def under_way(self, model: str) -> RolloutState | None:
        """Return the rollout of a model that is not over, None if there is none."""
        return next((one for one in self.states if one.spec.model == model and not one.phase.is_final), None)

    def on_this_topic(self, state: RolloutState) -> RolloutState:
        """Return the state as its commands are to be judged by it: an offset past the end is of a forgotten topic."""
        is_past_end = state.commands_through > self._reading_offset
        return replace(state, commands_through=-1) if is_past_end else state

    def read(self, offset: int, raw_key: bytes | None, raw_value: bytes | None) -> None:
        """Read one record of several; all are in force with the next `note_position`."""
        self._reading_offset = offset
        super().read(offset, raw_key, raw_value)

    def in_force(self) -> Mapping[str, bytes]:
        """Return states and commands by key, as the topic has them."""
        records: list[RolloutState | Command] = [
            *self._states.values(),
            *(given.command for given in self.commands),
        ]
        return {key_of(record).decode(): encode_rollout(record) for record in records}

    def put(self, key: str, value: bytes | None) -> None:
        """Put a state or a command in force; a tombstone removes it.

        Raises:
            DecodeError: the record cannot be read, or the table is full.
        """
        if value is None:
            self._states.pop(key, None)
            self._commands.pop(key, None)
            return
        record = decode_rollout(key.encode(), value)
        if key not in self._states and key not in self._commands:
            self._make_room()
        if isinstance(record, Command):
            self._commands[key] = GivenCommand(self._reading_offset, record)
            return
        held = self._states.get(record.id)
        if held is None or (record.generation, record.revision) >= (held.generation, held.revision):
            self._states[record.id] = record

    def _make_room(self) -> None:
        if len(self._states) + len(self._commands) < _MAX_RECORDS:
            return
        over = [state for state in self._states.values() if state.phase.is_final]
        if not over:
            raise DecodeError(f"there are {_MAX_RECORDS} rollouts and commands under way, more are not kept")
        del self._states[min(over, key=lambda state: state.created_s).id]


class RolloutFollower(TableKeeper):
    """Keeps a table of rollouts up to date with the topic; a stack older than rollouts has no such topic."""

    def __init__(self, kafka: "KafkaSettings", names: "Names", table: RolloutTable) -> None:
        super().__init__(kafka, table, topic=names.rollouts, may_be_missing=True)


async def publish_rollout(kafka: "KafkaSettings", names: "Names", record: RolloutState | Command) -> int:
    """Write a state or a command to the topic and return its offset.

    Raises:
        UnavailableError: the broker does not answer; the record may have been written.
    """
    key = key_of(record).decode()
    return await publish_to_table(kafka, names.rollouts, key=key, value=encode_rollout(record))


async def remove_command(kafka: "KafkaSettings", names: "Names", command: Command) -> None:
    """Remove a command after the decision.

    Raises:
        UnavailableError: the broker does not answer; the command is still executed only once.
    """
    await publish_to_table(kafka, names.rollouts, key=key_of(command).decode(), value=None)

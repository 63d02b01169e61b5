"""One ONNX model, loaded."""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from inferlane.errors import ConfigurationError, ModelError, clipped
from models.artifact import check_artifact, describe, read_artifact, signature_of
from workers.batching import BatchRun, Run, RunTimes, run_batch

if TYPE_CHECKING:
    from inferlane.contracts.naming import Lane
    from inferlane.runtime.retry import Clock
    from models.catalog import ModelVersion
    from workers.lane_scheduler import LaneScheduler
    from workers.requests import Request


class RunCost:
    """The CPU-seconds and rows of the run before.

    Fewer rows are taken to cost as much as those of that run: what a run costs whatever its rows would else be
    forgotten after a large one. More cost more in proportion.
    """

    def __init__(self) -> None:
        self._rows = 1
        self._spent_s = math.inf

    def of(self, rows: int) -> float:
        """Seconds that so many rows take; without end before the first run."""
        return self._spent_s * max(1.0, rows / self._rows) if rows else 0.0

    def note(self, rows: int, spent_s: float) -> None:
        """Note a run of one row or more."""
        self._rows, self._spent_s = rows, spent_s


class OnnxModel:
    """A model version on the CPU. `run` may be called from any one thread at a time."""

    def __init__(self, version: "ModelVersion", *, intra_op_num_threads: int) -> None:
        """Load the model from files that have the digest of their version.

        Raises:
            ConfigurationError: the files are not those that version.toml describes, or onnxruntime cannot load them.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = intra_op_num_threads
        options.inter_op_num_threads = 1
        # A spinning thread replies sooner and takes a core from everybody else on the machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.version = version
        self._output_names = [spec.name for spec in version.signature.outputs]
        artifact = read_artifact(version.path)
        check_artifact(version.path, artifact, digest=version.digest, size_bytes=version.size_bytes)
        # onnxruntime works on these very bytes and does not keep them alive.
        self._external = artifact.external
        if self._external:
            options.add_external_initializers_from_files_in_memory(
                list(self._external), list(self._external.values()), list(map(len, self._external.values()))
            )
        try:
            self._session = onnxruntime.InferenceSession(
                artifact.model, sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises pybind types of its own with no common base
            raise ConfigurationError(
                f"{version.path}: onnxruntime cannot load it: {clipped(str(error), limit_chars=1_000)}"
            ) from error
        found = signature_of(self._session)
        if found != version.signature:
            raise ConfigurationError(
                f"{version.path}: the model has {describe(found)}, but version.toml says "
                f"{describe(version.signature)}. Correct [[inputs]] and [[outputs]]."
            )

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs, each `(rows, …)`.

        Raises:
            ModelError: onnxruntime failed, or an output has another number of rows than the inputs.
        """
        rows = len(next(iter(inputs.values())))
        try:
            arrays = self._session.run(self._output_names, dict(inputs))
        except Exception as error:  # as above: no common base
            raise ModelError(
                f"onnxruntime failed on a batch of {rows} rows: {clipped(str(error), limit_chars=1_000)}"
            ) from error
        for name, array in zip(self._output_names, arrays, strict=True):
            if np.shape(array)[:1] != (rows,):
                raise ModelError(f"output {name!r} has the shape {list(np.shape(array))} for {rows} rows of input")
        return dict(zip(self._output_names, arrays, strict=True))


# Bulk results that are held back until all of a take are there. More in one send could take longer than a request to
# the broker may.
HELD_BYTES = 1024 * 1024
# A run that takes no longer is made on the event loop: to hand it to the thread and back costs 0.06 ms of CPU
# (docs/adr/0008). A larger one would hold up heartbeats and fetches.
_INLINE_S = 0.0001


class BatchRunner:
    """Runs batches of one model. One event loop, and one thread: a second would only fight it for the core."""

    def __init__(self, run: Run, *, scheduler: "LaneScheduler", clock: "Clock", threads: int) -> None:
        """`threads` is what one run of the model may use."""
        self._run = run
        self._scheduler = scheduler
        self._clock = clock
        self._cost = RunCost()
        self._threads = threads
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="infer")

    def close(self) -> None:
        """Let the thread end."""
        self._executor.shutdown(wait=False)

    def turn(self, lane: "Lane") -> AbstractAsyncContextManager[None]:
        """Hold the model while the block runs."""
        return self._scheduler.turn(lane)

    async def run(self, batches: "Sequence[Sequence[Request]]") -> list[BatchRun]:
        """Run the batches within a turn, at least the first; those behind it only while no client waits for a turn.

        A way back to the event loop between two runs would leave the model without work whenever the loop has some.
        """
        rows = sum(request.rows for batch in batches for request in batch)
        if self._cost.of(rows) <= _INLINE_S:
            return self._run_in_a_row(batches)
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run_in_a_row, batches)

    def _run_in_a_row(self, batches: "Sequence[Sequence[Request]]") -> list[BatchRun]:
        ran: list[BatchRun] = []
        output_bytes = 0
        for batch in batches:
            ran.append(self._run_batch(batch))
            output_bytes += ran[-1].output_bytes
            if self._scheduler.has_waiting_client or output_bytes >= HELD_BYTES:
                break
        return ran

    def _run_batch(self, batch: "Sequence[Request]") -> BatchRun:
        started_s, before_s = self._clock.now_s(), time.thread_time()
        inferred = run_batch(self._run, batch) if batch else []
        # A run that failed says nothing of one that does not.
        if batch and not any(one.error for one in inferred):
            # Of the threads of a run this one's time is known alone.
            spent_s = (time.thread_time() - before_s) * self._threads
            self._cost.note(sum(request.rows for request in batch), spent_s)
        return BatchRun(inferred, RunTimes(started_s=started_s, ended_s=self._clock.now_s()))

"""A model in onnxruntime, and the runner that infers batches with it."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
from onnxruntime import RunOptions

from inferlane.contracts.fallback import is_under_trial
from inferlane.contracts.naming import Lane
from inferlane.contracts.wire.tensors import ANY_ROWS, NO_ROW_AXIS, Signature, numpy_dtype
from inferlane.errors import ConfigurationError, ModelError, clipped
from models.artifact import check_artifact, read_artifact
from models.model_session import describe, open_session, signature_of
from models.steps.step_chain import StepChain
from workers.batching import BatchRun, Run, RunTimes, run_batch, run_in_pieces, run_in_sizes
from workers.lane_scheduler import LaneScheduler, inference_thread
from workers.run_cost import RunCost

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from inferlane.runtime.retry import Clock
    from models.catalog import ModelVersion
    from workers.requests import Request
    from workers.run_limit import RunLimit


# The time of one run while other versions wait for their turns. Short makes small batches of slow models, long delays
# the other versions.
SHARED_RUN_S = 0.1
# Bulk runs that are expected to take longer are cut to a quarter of their rows while clients are about: a client waits
# for the run under way. Shorter ones are cut for nothing. Fewer rows a run would read the weights more often than they
# compute: the benchmarks' MLP takes 1.02 times as long for a row in a run of 64 as of 256, 1.45 times in one of 16.
_BESIDE_CLIENTS_S = 0.002
_CUT_TO = 4


class OnnxModel:
    """A model version in onnxruntime. `run` may be called from any thread, by one at a time."""

    def __init__(self, version: "ModelVersion", *, intra_op_num_threads: int) -> None:
        """Load the model; its files must have the digest of the version.

        Raises:
            ConfigurationError: the files are not those that version.toml describes, or onnxruntime cannot load them.
        """
        self.version = version
        graph = version.graph
        self._output_names = [spec.name for spec in graph.outputs]
        artifact = read_artifact(version.path, version.files)
        check_artifact(version.path, artifact, digest=version.digest, size_bytes=version.size_bytes)
        # Kept for the session.
        self._external = artifact.external
        try:
            self._session = open_session(
                artifact.model,
                self._external,
                threads=version.execution.threads or intra_op_num_threads,
                execution=version.execution,
                signature=graph,
            )
        except ConfigurationError as error:
            raise ConfigurationError(f"{version.path}: {error}") from error
        except Exception as error:  # onnxruntime raises pybind types of its own with no common base
            raise ConfigurationError(
                f"{version.path}: onnxruntime cannot load it: {clipped(str(error), limit_chars=1_000)}"
            ) from error
        loaded = signature_of(self._session)
        self._batch = graph.batch
        self._sizes = version.execution.sizes
        self._rows_of_run = 1 if version.rows_alone and self._batch == ANY_ROWS else self._batch
        served = Signature.of_graph(loaded.inputs, loaded.outputs, has_row_axis=self._batch != NO_ROW_AXIS)
        found, said = describe(served), describe(graph)
        if found != said:
            raise ConfigurationError(
                f"{version.path}: the model has {found}, but version.toml says {said}. "
                "Correct [[inputs]] and [[outputs]]."
            )
        self.run_options = RunOptions()
        self._has_strings = any(spec.datatype == "BYTES" for spec in (*graph.inputs, *graph.outputs))
        is_bound = version.execution.on_gpu and not self._has_strings
        self._bound = _BoundRun(self._session, self._output_names, self.run_options) if is_bound else None
        self.steps = (
            None if version.steps is None else StepChain(version.steps, artifact.files, rows_alone=version.rows_alone)
        )

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs of the version, each `(rows, …)`.

        Raises:
            RowsRefusedError: a step before the graph cannot read some rows.
            ModelError: onnxruntime failed, or an output has another number of rows than the inputs.
        """
        return self.run_graph(inputs) if self.steps is None else self.steps.run(inputs, self.run_graph)

    def run_graph(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs of the graph, each `(rows, …)`.

        Raises:
            ModelError: as `run`.
        """
        if self._sizes and self._rows_of_run == ANY_ROWS:
            return run_in_sizes(self._run_once, inputs, sizes=self._sizes)
        if self._rows_of_run != ANY_ROWS:
            return run_in_pieces(self._run_once, inputs, batch=self._rows_of_run)
        return self._run_once(inputs)

    def _arrays(self, inputs: Mapping[str, np.ndarray]) -> list[Any]:
        if self._bound is not None:
            return self._bound.run(inputs)
        if not self._has_strings:
            arrays: list[Any] = self._session.run(self._output_names, dict(inputs), self.run_options)
            return arrays
        outputs = self._session.run(self._output_names, _of_objects(inputs), self.run_options)
        return list(map(_of_strings, outputs))

    def _run_once(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = 1 if self._batch == NO_ROW_AXIS else len(next(iter(inputs.values())))
        try:
            arrays = self._arrays(inputs)
        except Exception as error:  # as above: no common base
            raise ModelError(
                f"onnxruntime failed on a batch of {rows} rows: {clipped(str(error), limit_chars=1_000)}"
            ) from error
        for name, array in zip(self._output_names, arrays, strict=True):
            if self._batch != NO_ROW_AXIS and np.shape(array)[:1] != (rows,):
                raise ModelError(f"output {name!r} has the shape {list(np.shape(array))} for {rows} rows of input")
        return dict(zip(self._output_names, arrays, strict=True))


class _BoundRun:
    """Runs with inputs and outputs that are bound: onnxruntime copies each once, between device and host."""

    def __init__(self, session: "InferenceSession", output_names: Sequence[str], options: RunOptions) -> None:
        self._session = session
        self._options = options
        self._binding = session.io_binding()
        self._output_names = output_names

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Return the outputs in the order of their names."""
        binding = self._binding
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in self._output_names:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding, self._options)
        arrays: list[Any] = binding.copy_outputs_to_cpu()
        # Release what is bound; the arrays belong to the requests.
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        return arrays


def _of_objects(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the inputs with strings as Python objects, the only form that onnxruntime takes."""
    return {name: array.astype(object) if array.dtype.kind == "T" else array for name, array in inputs.items()}


def _of_strings(output: Any) -> Any:
    is_of_objects = isinstance(output, np.ndarray) and output.dtype.kind == "O"
    return output.astype(numpy_dtype("BYTES")) if is_of_objects else output


# Bytes of bulk results that are held back to deliver them together. More in one produce could exceed the request
# timeout of the broker.
HELD_BYTES = 1024 * 1024
# A run that is expected to be shorter happens on the event loop: the way to the thread and back costs 0.06 ms of CPU,
# and a run there finds its caches cold (docs/adr/0008). A longer run on the loop would delay heartbeats and fetches.
_INLINE_S = 0.0003


class BatchRunner:
    """Runs batches of one model. One event loop and one thread: a second thread would compete for the same core."""

    def __init__(  # noqa: PLR0913 - the model, and what it shares
        self,
        run: Run,
        *,
        scheduler: LaneScheduler,
        clock: "Clock",
        threads: int,
        may_run_on_loop: bool = True,
        limit: "RunLimit | None" = None,
        version: str = "",
        executor: ThreadPoolExecutor | None = None,
    ) -> None:
        """`threads` is how many threads one run of the model uses.

        `version` is who takes turns, where other versions take turns of `scheduler` too; then all share `executor`.
        Without `may_run_on_loop`, no run happens on the event loop: where a step reads texts or images, the rows of a
        run do not say how long it will take. `limit` is for runs with requests of a version under trial.
        """
        self._model_run = run
        self._limit = limit
        self._may_run_on_loop = may_run_on_loop
        self._scheduler = scheduler
        self._clock = clock
        self._cost = RunCost()
        # Of the model alone, which runs without Python's lock: stacking and cutting rows hold it in any thread.
        self._model_cost = RunCost()
        self._model_spent_s = 0.0
        self._threads = threads
        self._version = version
        self._is_shared = executor is not None
        self._executor = inference_thread() if executor is None else executor
        # CPU seconds of all runs.
        self.spent_s = 0.0

    def close(self) -> None:
        """Release its threads; they end after the run under way. Another version keeps a thread that it shares."""
        if self._limit is not None:
            self._limit.close()
        if not self._is_shared:
            self._executor.shutdown(wait=False)

    def most_rows(self, max_rows: int, lane: Lane) -> int:
        """How many rows the next run may have: `max_rows`, or fewer where they would keep others waiting.

        Others are versions that share the process, and for bulk the clients that are about.
        """
        if lane is Lane.BULK and self._scheduler.has_clients_about and self._cost.of(max_rows) > _BESIDE_CLIENTS_S:
            max_rows = max(1, max_rows // _CUT_TO)
        return min(max_rows, self._cost.rows_within(SHARED_RUN_S)) if self._is_shared else max_rows

    @property
    def hands_over(self) -> bool:
        """Whether requests that another version may answer should not wait for this one."""
        return self._limit is not None and self._limit.hands_over

    def turn(self, lane: Lane) -> AbstractAsyncContextManager[None]:
        """Hold the model while the block runs."""
        return self._scheduler.turn(lane, self._version)

    async def run(self, batches: "Sequence[Sequence[Request]]") -> list[BatchRun]:
        """Run the first batch within a turn, and the others too while no client waits for a turn.

        Returning to the event loop between two runs would leave the model idle while the loop does other work.
        """
        rows = sum([request.rows for batch in batches for request in batch])
        if self._may_run_on_loop and self._model_cost.of(rows) <= _INLINE_S:
            ran = self._run_in_a_row(batches)
        else:
            ran = await asyncio.get_running_loop().run_in_executor(self._executor, self._run_in_a_row, batches)
        if self._limit is not None:
            self._limit.halt_if_ended()
        return ran

    def _run_in_a_row(self, batches: "Sequence[Sequence[Request]]") -> list[BatchRun]:
        ran: list[BatchRun] = []
        output_bytes = 0
        for batch in batches:
            ran.append(self._run_batch(batch))
            if len(ran) == len(batches):
                break
            output_bytes += ran[-1].output_bytes
            if self._scheduler.has_waiting_client or output_bytes >= HELD_BYTES:
                break
        return ran

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        before_s = time.thread_time()
        outputs = self._model_run(inputs)
        self._model_spent_s += time.thread_time() - before_s
        return outputs

    def _run_batch(self, batch: "Sequence[Request]") -> BatchRun:
        self._model_spent_s = 0.0
        started_s, before_s = self._clock.now_s(), time.thread_time()
        if self._limit is not None and any(map(is_under_trial, [request.headers for request in batch])):
            with self._limit.watch(estimate_s=self._cost.of(sum(request.rows for request in batch))):
                inferred = run_batch(self._run, batch)
        else:
            inferred = run_batch(self._run, batch) if batch else []
        # The time of a failed run says nothing about the time of the next.
        if batch and not any(one.error for one in inferred):
            # Only this thread's CPU time is known; the other threads of the run are taken to use the same.
            spent_s = (time.thread_time() - before_s) * self._threads
            self.spent_s += spent_s
            rows = sum([request.rows for request in batch])
            self._cost.note(rows, spent_s)
            self._model_cost.note(rows, self._model_spent_s * self._threads)
        return BatchRun(inferred, RunTimes(started_s=started_s, ended_s=self._clock.now_s()))

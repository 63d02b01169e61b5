"""A version's steps, loaded: the rows of clients in, through the graph, the outputs of the version out."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from inferlane.contracts.wire.row_texts import TOKEN_COUNT
from inferlane.contracts.wire.tensors import Tensors
from inferlane.errors import RowsRefusedError
from models.steps.declared_steps import Steps
from models.steps.image_step import ImageDecoder, ImageStep
from models.steps.score_steps import Stage
from models.steps.token_labels import TEXT, TokenLabels
from models.steps.tokenizer_step import OpenTokenizer, TokenRows

RunGraph = Callable[[Tensors], dict[str, np.ndarray]]


class StepChain:
    """Runs a batch through the steps and the graph. By one thread at a time, which may be any."""

    def __init__(self, steps: Steps, files: Mapping[str, bytes], *, rows_alone: bool = False) -> None:
        """Load what the steps need; `files` are those of the version, by name. With `rows_alone`, no row is filled up.

        Raises:
            ConfigurationError: a library is missing, or a file is not what it must be.
        """
        self._steps = steps
        self._rows_alone = rows_alone
        self._graph_inputs = [spec.name for spec in steps.graph.inputs]
        self._images = [ImageDecoder(step, steps.graph) for step in steps.before if isinstance(step, ImageStep)]
        step = steps.tokenizer
        self._tokenizer = (
            None
            if step is None
            else OpenTokenizer(step, steps.graph, files[step.file], keeps_offsets=steps.keeps_offsets)
        )

    def run(self, inputs: Tensors, run_graph: RunGraph) -> dict[str, np.ndarray]:
        """Return the outputs of the version, each `(rows, …)`.

        Raises:
            RowsRefusedError: rows that a step cannot read; the others were not run.
            ModelError: the graph failed.
        """
        refused: dict[int, str] = {}
        arrays = {name: inputs[name] for name in self._graph_inputs if name in inputs}
        for decoder in self._images:
            arrays[decoder.step.output] = decoder.rows(inputs[decoder.step.input].ravel().tolist(), refused)
        tokens = self._encoded(inputs, refused)
        if refused:
            raise RowsRefusedError(refused)
        if self._tokenizer is None or tokens is None:
            return self._run_part(arrays, run_graph)
        if self._steps.tokenizer is not None and self._steps.keeps_offsets:
            arrays[TEXT] = inputs[self._steps.tokenizer.input]
        # Rows of like lengths run together: in one run all would be as long as the longest.
        parts = self._tokenizer.parts(tokens, alone=self._rows_alone)
        outputs = [
            self._run_part({name: array[rows] for name, array in arrays.items()} | filled, run_graph)
            for rows, filled in parts
        ]
        joined = _in_order([rows for rows, _ in parts], outputs)
        if self._steps.tokenizer is not None and self._steps.tokenizer.count:
            joined[TOKEN_COUNT] = np.array([len(ids) for ids in tokens.ids], np.uint32)
        return joined

    def samples(self, count: int) -> dict[str, np.ndarray]:
        """Return rows for the inputs that steps read, of different sizes: what a version is tried with."""
        rows = {decoder.step.input: decoder.samples(count) for decoder in self._images}
        if self._tokenizer is not None and self._steps.tokenizer is not None:
            texts = self._tokenizer.samples(count)
            rows |= {
                spec.name: np.concatenate([texts[at:], texts[:at]])
                for at, spec in enumerate(self._steps.tokenizer.public())
            }
        return rows

    def comparable(self, outputs: Tensors) -> dict[str, np.ndarray]:
        """The outputs as two runs of the same rows can be compared: without numbers that are written in texts."""
        written = {step.output: step for step in self._steps.after if isinstance(step, TokenLabels)}
        return {
            name: written[name].without_scores(array) if name in written else array for name, array in outputs.items()
        }

    def _encoded(self, inputs: Tensors, refused: dict[int, str]) -> TokenRows | None:
        if self._tokenizer is None or self._steps.tokenizer is None:
            return None
        texts, *pairs = (inputs[spec.name].ravel().tolist() for spec in self._steps.tokenizer.public())
        return self._tokenizer.encode(texts, refused, pairs=pairs[0] if pairs else None)

    def _run_part(self, arrays: Tensors, run_graph: RunGraph) -> dict[str, np.ndarray]:
        outputs = run_graph({name: arrays[name] for name in self._graph_inputs})
        at: Stage[np.ndarray] = Stage(outputs, arrays)
        for step in self._steps.after:
            at = step.apply(at)
        return dict(at.outputs)


def _in_order(rows: Sequence[np.ndarray], parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the outputs of all parts, with each row where it was before it was put into a part."""
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.concatenate(rows))
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}

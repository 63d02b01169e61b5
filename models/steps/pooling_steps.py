"""Steps after the graph: one vector a row from vectors of its tokens, and vectors of length one. No I/O."""

from dataclasses import replace

import numpy as np

from inferlane.contracts.wire.tensors import TensorSpec
from inferlane.errors import ConfigurationError
from models.steps.score_steps import Name, ScoreStep, Stage, kind_of, renamed, taken, widened

# Below them, a vector has no direction and a row no token. Source: `torch.nn.functional.normalize`, and the mean
# pooling of sentence-transformers.
_SHORTEST, _FEWEST = 1e-12, 1e-9


class MeanPool(ScoreStep, frozen=True, kw_only=True, tag="mean-pool"):
    """The mean over the tokens of a row that its mask has, in place of a vector for each token."""

    input: Name = "last_hidden_state"
    output: Name = "embedding"
    mask: Name = "attention_mask"

    def specs(self, at: Stage[TensorSpec]) -> Stage[TensorSpec]:
        """Return the tensors with `(rows, tokens, width)` replaced by `(rows, width)`.

        Raises:
            ConfigurationError: there is no such tensor, or no mask of that name.
        """
        if self.mask not in at.inputs:
            raise ConfigurationError(
                f"{kind_of(self)} takes the mask {self.mask!r}; the inputs are: {', '.join(at.inputs)}"
            )
        return _pooled(self, at, self.input, self.output)

    def apply(self, at: Stage[np.ndarray]) -> Stage[np.ndarray]:
        """Average the vectors of the tokens that the mask has, `(rows, width)`; a row without any gets zeros."""
        states = widened(at.outputs[self.input])
        mask = at.inputs[self.mask].astype(states.dtype)
        counts = np.maximum(mask.sum(axis=1, keepdims=True), states.dtype.type(_FEWEST))
        return at.replaced(self.input, self.output, np.einsum("rth,rt->rh", states, mask) / counts)


class FirstToken(ScoreStep, frozen=True, kw_only=True, tag="first-token"):
    """The vector of the first token of a row, in place of one for each token."""

    input: Name = "last_hidden_state"
    output: Name = "embedding"

    def specs(self, at: Stage[TensorSpec]) -> Stage[TensorSpec]:
        """Return the tensors with `(rows, tokens, width)` replaced by `(rows, width)`."""
        return _pooled(self, at, self.input, self.output)

    def apply(self, at: Stage[np.ndarray]) -> Stage[np.ndarray]:
        """Keep the vector of the first token of each row, `(rows, width)`."""
        return at.replaced(self.input, self.output, widened(at.outputs[self.input])[:, 0])


class Normalize(ScoreStep, frozen=True, kw_only=True, tag="normalize"):
    """Vectors of length one, in place of vectors of any length."""

    input: Name = "embedding"
    output: Name = "embedding"

    def specs(self, at: Stage[TensorSpec]) -> Stage[TensorSpec]:
        """Return the tensors, with `input` renamed to `output`; the shape stays."""
        return renamed(self, at, taken(self, at, self.input), self.output)

    def apply(self, at: Stage[np.ndarray]) -> Stage[np.ndarray]:
        """Divide each row's vector by its Euclidean length."""
        vectors = widened(at.outputs[self.input])
        lengths = np.sqrt(np.square(vectors).sum(axis=-1, keepdims=True))
        return at.replaced(self.input, self.output, vectors / np.maximum(lengths, vectors.dtype.type(_SHORTEST)))


def _pooled(step: ScoreStep, at: Stage[TensorSpec], old: str, new: str) -> Stage[TensorSpec]:
    spec = taken(step, at, old, axes=2)
    return renamed(step, at, replace(spec, shape=(-1, spec.row_shape[1])), new)

"""The step `token-labels`: what each token of a text is, with its place in the text. No I/O."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from inferlane.contracts.wire.tensors import TensorSpec, numpy_dtype
from inferlane.errors import ConfigurationError
from models.steps.score_steps import Name, ScoreStep, Stage, check_labels, kind_of, scores_of, taken, written
from models.steps.tokenizer_step import ENDS, STARTS

# The texts of a batch, among the inputs that steps after the graph see.
TEXT = "token_text"
# Of a score in an answer: more digits than a second run of the same text, in another batch, gives again.
_DIGITS = 4
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[dict[str, Any]]).decode


class TokenLabels(ScoreStep, frozen=True, kw_only=True, tag="token-labels"):
    """The labels of a row's tokens as a JSON text, in place of the logits of each token.

    A list of objects with the fields that the pipeline of transformers has: `entity`, `score`, `word`, `start`, `end`
    (in characters). With `group`, tokens of one entity are one object, with `entity_group` in place of `entity`.
    Source: `TokenClassificationPipeline` of transformers, aggregation strategies `none` and `simple`.
    """

    input: Name = "logits"
    output: Name = "entities"
    labels: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    group: bool = True
    # Labels that answers leave out.
    ignore: tuple[str, ...] = ("O",)

    def specs(self, at: Stage[TensorSpec]) -> Stage[TensorSpec]:
        """Replace the logits, `(rows, tokens, labels)`, by a JSON text for each row.

        Raises:
            ConfigurationError: no tokenizer says where tokens are, or there are not as many labels as logits.
        """
        logits = taken(self, at, self.input, axes=2)
        if STARTS not in at.inputs:
            raise ConfigurationError(f"{kind_of(self)} needs a step 'tokenizer' that reads one text a row")
        check_labels(self, self.labels, logits.row_shape[-1])
        return written(self, at, logits, TensorSpec(name=self.output, datatype="BYTES", shape=(-1,)))

    def apply(self, at: Stage[np.ndarray]) -> Stage[np.ndarray]:
        """Write the entities of each text as JSON: label, score, and place in the text."""
        scores = scores_of(at.outputs[self.input])
        best = scores.argmax(axis=-1)
        top = np.take_along_axis(scores, best[:, :, None], axis=2)[:, :, 0]
        texts = at.inputs[TEXT].ravel().tolist()
        rows = zip(
            texts, best.tolist(), top.tolist(), at.inputs[STARTS].tolist(), at.inputs[ENDS].tolist(), strict=True
        )
        found = np.empty(len(texts), numpy_dtype("BYTES"))
        for row, (text, *columns) in enumerate(rows):
            found[row] = _encode(list(self._entities(text, *columns))).decode()
        return at.replaced(self.input, self.output, found)

    def without_scores(self, rows: np.ndarray) -> np.ndarray:
        """Return the texts of rows without their scores, whose last digits may differ from run to run."""
        found = np.empty(rows.shape, rows.dtype)
        for row, text in enumerate(rows.tolist()):
            found[row] = _encode([{**entity, "score": 0} for entity in _decode(text)]).decode()
        return found

    def _entities(
        self, text: str, best: Sequence[int], top: Sequence[float], starts: Sequence[int], ends: Sequence[int]
    ) -> Iterator[dict[str, Any]]:
        tokens = [token for token in zip(best, top, starts, ends, strict=True) if token[2] >= 0]
        name = "entity_group" if self.group else "entity"
        for group in self._groups(tokens) if self.group else ([token] for token in tokens):
            label = self.labels[group[0][0]]
            if label in self.ignore:
                continue
            start, end = group[0][2], group[-1][3]
            yield {
                name: _tag(label)[1] if self.group else label,
                "score": round(sum(token[1] for token in group) / len(group), _DIGITS),
                "word": text[start:end],
                "start": start,
                "end": end,
            }

    def _groups(self, tokens: Sequence[tuple[int, float, int, int]]) -> Iterator[list[tuple[int, float, int, int]]]:
        group: list[tuple[int, float, int, int]] = []
        for token in tokens:
            begins, tag = _tag(self.labels[token[0]])
            if group and (begins or tag != _tag(self.labels[group[0][0]])[1]):
                yield group
                group = []
            group.append(token)
        if group:
            yield group


def _tag(label: str) -> tuple[bool, str]:
    """Return whether a label begins an entity, and of which kind: `B-PER` and `I-PER` as in the IOB2 format."""
    if label.startswith(("B-", "I-")):
        return label.startswith("B-"), label[2:]
    return False, label

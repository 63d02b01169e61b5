"""The step `tokenizer`: text to token ids, by the tokenizer that the model was trained with."""

import os
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np

from inferlane.contracts.wire.row_texts import tokens_of
from inferlane.contracts.wire.tensors import Signature, TensorSpec, numpy_dtype
from inferlane.errors import ConfigurationError, InvalidInputError, clipped

TOKENS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
# Where each token begins and ends in the text of its row, in characters; -1 for one that is not of the text.
STARTS, ENDS = "token_starts", "token_ends"
_NOWHERE = -1
# Rows that are no longer share one run.
_SHORT_TOKENS = 16
# What a row is tried with: of no token, of few and of many.
_SAMPLES = ("a b c", "", "The quick brown fox jumps over the lazy dog.", "one two three four five six seven " * 8)


class TokenizerStep(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="tokenizer"
):
    """How the text of a row becomes `input_ids`, and `attention_mask` and `token_type_ids` where the graph has them."""

    file: str = "tokenizer.json"
    # What the input of text is called.
    input: Annotated[str, msgspec.Meta(min_length=1)] = "text"
    # What the input of a second text is called, of models for pairs of texts; None where a row is one text.
    pair: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    # Longer text is cut to so many tokens, those that the tokenizer adds included.
    max_length: Annotated[int, msgspec.Meta(ge=1)] = 512
    # Longer text is refused: it would be read whole to be cut.
    max_chars: Annotated[int, msgspec.Meta(ge=1)] = 1_000_000
    # What shorter rows are filled up with.
    pad_id: Annotated[int, msgspec.Meta(ge=0)] = 0
    # Whether answers have the number of tokens of each row, as the output `tokens`.
    count: bool = False

    def filled(self, graph: Signature) -> tuple[TensorSpec, ...]:
        """Return the inputs of the graph that this step fills.

        Raises:
            ConfigurationError: the graph takes no tokens.
        """
        specs = tuple(spec for spec in graph.inputs if spec.name in {TOKENS, MASK, TYPES})
        wanted = [spec for spec in specs if spec.name == TOKENS]
        if not wanted or any(spec.kind != "INT" or len(spec.row_shape) != 1 for spec in specs):
            found = ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in graph.inputs)
            raise ConfigurationError(
                f"the step 'tokenizer' fills {TOKENS}, {MASK} and {TYPES}, each of whole numbers [-1, -1]; the graph "
                f"has: {found}"
            )
        return specs

    def public(self) -> tuple[TensorSpec, ...]:
        """Return the inputs that clients see."""
        names = (self.input,) if self.pair is None else (self.input, self.pair)
        return tuple(TensorSpec(name=name, datatype="BYTES", shape=(-1, 1)) for name in names)


@dataclass(frozen=True, slots=True)
class TokenRows:
    """The tokens of each row and their types, `(tokens,)`; and where each is in its text, `(tokens, 2)`, if kept."""

    ids: Sequence[np.ndarray]
    types: Sequence[np.ndarray]
    offsets: Sequence[np.ndarray] | None = None


class OpenTokenizer:
    """A tokenizer that is loaded. The rows of a batch are encoded together."""

    def __init__(self, step: TokenizerStep, graph: Signature, content: bytes, *, keeps_offsets: bool = False) -> None:
        """`content` is what its file holds; `keeps_offsets` tells where each token is in its text, at twice the cost.

        Raises:
            ConfigurationError: the extra is not installed, or the file holds no tokenizer.
        """
        try:
            from tokenizers import Tokenizer  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "the version has a step 'tokenizer', which needs the package 'tokenizers'. Install the extra: pip "
                "install 'inferlane[text]'"
            ) from error
        # Unless somebody says otherwise: a worker is given the threads of its runs, and the library takes every core.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            self._tokenizer = Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises Exception itself
            raise ConfigurationError(f"{step.file} holds no tokenizer: {clipped(str(error))}") from error
        self._step = step
        self._keeps_offsets = keeps_offsets
        self._specs = step.filled(graph)
        # A graph may take rows of one length only.
        self._length = max(spec.row_shape[0] for spec in self._specs)
        self._limit = min(step.max_length, self._length) if self._length > 0 else step.max_length
        direction = (self._tokenizer.truncation or {}).get("direction", "right")
        self._tokenizer.enable_truncation(self._limit, direction=direction)
        self._tokenizer.no_padding()
        self._vocabulary = self._tokenizer.get_vocab_size()

    def encode(
        self, texts: Sequence[str], refused: MutableMapping[int, str], *, pairs: Sequence[str] | None = None
    ) -> TokenRows:
        """Return the tokens of all rows; for each row that has none to give, the reason is added to `refused`.

        `pairs` are the second texts of the rows, where the model takes pairs.
        """
        given: dict[int, list[int]] = {}
        readable: list[str | tuple[str, str]] = []
        for row, text in enumerate(texts):
            try:
                tokens = self._checked(text)
                if pairs is not None:
                    tokens = self._checked(pairs[row])
            except InvalidInputError as error:
                refused[row], tokens = str(error), []
            if tokens is not None:
                given[row] = tokens
            one = text if tokens is None else ""
            readable.append(one if pairs is None else (one, pairs[row] if tokens is None else ""))
        if self._keeps_offsets:
            encodings = self._tokenizer.encode_batch(readable)
        else:
            encodings = self._tokenizer.encode_batch_fast(readable)
        ids = [np.array(encoding.ids, np.int64) for encoding in encodings]
        types = [np.array(encoding.type_ids, np.int64) for encoding in encodings]
        for row, tokens in given.items():
            ids[row] = np.array(tokens[: self._limit], np.int64)
            types[row] = np.zeros(len(ids[row]), np.int64)
        return TokenRows(ids, types, [_offsets_of(encoding) for encoding in encodings] if self._keeps_offsets else None)

    def _checked(self, text: str) -> list[int] | None:
        """Return the tokens that the text of a row stands for; None if it is to be tokenized.

        Raises:
            InvalidInputError: it is too long, or the model has no such tokens.
        """
        if len(text) > self._step.max_chars:
            raise InvalidInputError(f"the text has {len(text)} characters, the limit is {self._step.max_chars}")
        tokens = tokens_of(text)
        if tokens is not None and (self._keeps_offsets or self._step.pair is not None):
            why = (
                "the model takes pairs of texts" if self._step.pair else "the answer says where tokens are in the text"
            )
            raise InvalidInputError(f"{why}; send text, not the ids of tokens")
        if tokens is not None and max(tokens) >= self._vocabulary:
            raise InvalidInputError(
                f"the token {max(tokens)} is none of the model's, which are 0 to {self._vocabulary - 1}; send text, or "
                "the ids of the model's own tokenizer"
            )
        return tokens

    def parts(self, rows: TokenRows, *, alone: bool = False) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Return the rows in parts of like lengths, filled up: their numbers, and the inputs with their mask.

        With `alone`, each row is a part.
        """
        groups: dict[int, list[int]] = {}
        for row, ids in enumerate(rows.ids):
            groups.setdefault(row if alone else (max(len(ids), _SHORT_TOKENS) - 1).bit_length(), []).append(row)
        return [(np.array(numbers), self._filled(rows, numbers)) for numbers in groups.values()]

    def _filled(self, rows: TokenRows, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        length = self._length if self._length > 0 else max(1, *(len(rows.ids[row]) for row in numbers))
        shape = (len(numbers), length)
        ids = np.full(shape, self._step.pad_id, np.int64)
        mask, types = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for at, row in enumerate(numbers):
            own = len(rows.ids[row])
            ids[at, :own], types[at, :own], mask[at, :own] = rows.ids[row], rows.types[row], 1
        made = {TOKENS: ids, MASK: mask, TYPES: types}
        if rows.offsets is not None:
            where = np.full((*shape, 2), _NOWHERE, np.int64)
            for at, row in enumerate(numbers):
                where[at, : len(rows.offsets[row])] = rows.offsets[row]
            made |= {STARTS: where[:, :, 0], ENDS: where[:, :, 1]}
        dtypes = {spec.name: numpy_dtype(spec.datatype) for spec in self._specs}
        return {name: array.astype(dtypes[name]) if name in dtypes else array for name, array in made.items()}

    def samples(self, count: int) -> np.ndarray:
        """Texts of several lengths, `(count, 1)`."""
        texts = [[_SAMPLES[row % len(_SAMPLES)]] for row in range(count)]
        return np.array(texts, numpy_dtype("BYTES"))


def _offsets_of(encoding: Any) -> np.ndarray:
    """Return where the tokens of a row are in its text, `(tokens, 2)`: those that the tokenizer adds are nowhere."""
    offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    offsets[np.array(encoding.special_tokens_mask, bool)] = _NOWHERE
    return offsets

"""The steps that an export of Hugging Face's tools needs, found in the files that it brings.

Source: the configuration files of transformers, optimum and sentence-transformers.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.errors import ConfigurationError, clipped
from models.steps.declared_steps import AfterStep, BeforeStep, Steps
from models.steps.image_step import ImageStep
from models.steps.pooling_steps import FirstToken, MeanPool, Normalize
from models.steps.score_steps import Argmax, Select, Sigmoid, Softmax, Threshold
from models.steps.token_labels import TokenLabels
from models.steps.tokenizer_step import TOKENS, TokenizerStep

_TOKENIZER = "tokenizer.json"
_PIXELS, _LOGITS, _STATES = "pixel_values", "logits", ("last_hidden_state", "token_embeddings")
_SENTENCE = "sentence_embedding"
_EMBEDDING = "embedding"
# Tokenizers that know no limit say a number that nothing reaches.
_NO_LIMIT = 1_000_000
_DEFAULT_TOKENS = 512
# Tokens, and what there is for each.
_AXES_OF_TOKENS = 2
_OF_PAIRS = "entailment"
# They count positions from 2.
_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet", "longformer"})
_Resample = Literal["nearest", "bilinear", "bicubic", "lanczos"]
# As Pillow numbers them.
_RESAMPLE: Mapping[int, _Resample] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


class DeclaredSteps(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The steps of a version, and why those."""

    before: tuple[BeforeStep, ...] = ()
    after: tuple[AfterStep, ...] = ()
    seen: tuple[str, ...] = ()

    def around(self, graph: Signature) -> Steps | None:
        """The steps around a graph with this signature; None if there are none."""
        return Steps(graph=graph, before=self.before, after=self.after) if self.before or self.after else None


def read_steps(path: Path) -> DeclaredSteps:
    """Read `[[before]]` and `[[after]]` of a file that somebody wrote.

    Raises:
        ConfigurationError: it holds none.
    """
    try:
        steps = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8-sig")), DeclaredSteps)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"--steps {str(path)!r} holds no steps: {clipped(str(error))}") from error
    return msgspec.structs.replace(steps, seen=(f"steps of {path.name}",))


def infer_steps(folder: Path, graph: Signature, *, max_length: int | None = None, pairs: bool = False) -> DeclaredSteps:
    """Return the steps for an export in this folder; none where its files say nothing of them.

    `pairs` says that a row is two texts, which an export does not; that of a model for entailment does by its labels.

    Raises:
        ConfigurationError: one of its files cannot be read, or says what no step does.
    """
    export = _Export(folder)
    inputs = {spec.name for spec in graph.inputs}
    outputs = {spec.name: spec for spec in graph.outputs}
    before: list[BeforeStep] = []
    seen: list[str] = []
    is_embedding = _SENTENCE in outputs or any(
        len(outputs[name].row_shape) == _AXES_OF_TOKENS for name in _STATES if name in outputs
    )
    if TOKENS in inputs and not (folder / _TOKENIZER).is_file():
        seen.append(f"no {_TOKENIZER}: clients send the ids of tokens")
    elif TOKENS in inputs:
        step = export.tokenizer(max_length, count=is_embedding, pairs=pairs)
        before.append(step)
        what = "text" if step.pair is None else f"pairs of texts ({step.input!r} and {step.pair!r})"
        seen.append(f"{step.file}: {what} of up to {step.max_length} tokens")
    image = export.image(graph) if _PIXELS in inputs else None
    if image is not None:
        before.append(image)
        seen.append(f"preprocessor_config.json: images, scaled to {image.size[0]} x {image.size[1]}")
    if not before:
        return DeclaredSteps(seen=tuple(seen))
    if _LOGITS in outputs and len(outputs[_LOGITS].row_shape) == 1:
        after, said = export.classes(outputs[_LOGITS])
    elif _LOGITS in outputs and len(outputs[_LOGITS].row_shape) == _AXES_OF_TOKENS and image is None:
        after, said = export.token_classes(outputs)
    elif is_embedding and image is None:
        after, said = export.pooling(outputs)
    else:
        after, said = (), "no step after the model: its outputs are those of no task that is known"
    return DeclaredSteps(before=tuple(before), after=after, seen=(*seen, said))


class _Export:
    """The configuration files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._config = self._read("config.json")

    def tokenizer(self, max_length: int | None, *, count: bool, pairs: bool) -> TokenizerStep:
        limits = [
            self._read("sentence_bert_config.json").get("max_seq_length"),
            self._read("tokenizer_config.json").get("model_max_length"),
            self._positions(),
        ]
        known = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < _NO_LIMIT]
        padding = self._read(_TOKENIZER).get("padding")
        pads = (padding.get("pad_id") if isinstance(padding, dict) else None, self._config.get("pad_token_id"))
        pad_id = next((pad for pad in pads if isinstance(pad, int) and pad >= 0), 0)
        labels = self._config.get("id2label")
        names = labels.values() if isinstance(labels, dict) else ()
        are_pairs = pairs or any(str(name).lower() == _OF_PAIRS for name in names)
        return TokenizerStep(
            pair="text_pair" if are_pairs else None,
            max_length=max_length or min(known, default=_DEFAULT_TOKENS),
            pad_id=pad_id,
            count=count,
        )

    def _positions(self) -> int | None:
        positions = self._config.get("max_position_embeddings")
        if not isinstance(positions, int):
            return None
        return positions - 2 if self._config.get("model_type") in _OFFSET_POSITIONS else positions

    def image(self, graph: Signature) -> ImageStep | None:
        about = self._read("preprocessor_config.json")
        spec = graph.input(_PIXELS)
        if not about or spec is None:
            return None
        size, crop = about.get("size"), about.get("crop_size") if about.get("do_center_crop") else None
        edge = size.get("shortest_edge") if isinstance(size, dict) else size if crop is not None else None
        target = _sides(crop if crop is not None else size)
        if target is None:
            raise ConfigurationError(
                f"preprocessor_config.json scales images to {size} and cuts out {crop}, which no step does. Declare "
                "the steps in a file: --steps steps.toml"
            )
        return ImageStep(
            output=_PIXELS,
            size=target,
            shortest_edge=edge if isinstance(edge, int) and crop is not None else None,
            resample=_RESAMPLE.get(about.get("resample", 2), "bilinear"),
            channels=1 if spec.row_shape[:1] == (1,) else 3,
            scale=float(about.get("rescale_factor", 1 / 255)) if about.get("do_rescale", True) else 1.0,
            mean=_numbers(about.get("image_mean")) if about.get("do_normalize") else (),
            std=_numbers(about.get("image_std")) if about.get("do_normalize") else (),
        )

    def classes(self, logits: TensorSpec) -> tuple[tuple[AfterStep, ...], str]:
        count = logits.row_shape[0]
        labels = self._labels(count)
        of_labels = f"{len(labels)} labels" if labels else f"{count} classes without labels"
        if self._config.get("problem_type") == "multi_label_classification":
            return (Sigmoid(), Threshold(output="labels")), f"config.json: several of {of_labels}: sigmoid, threshold"
        if count == 1:
            return (), "one number a row, as it is"
        return (Softmax(), Argmax(labels=labels)), f"config.json: one of {of_labels}: softmax, argmax"

    def token_classes(self, outputs: Mapping[str, TensorSpec]) -> tuple[tuple[AfterStep, ...], str]:
        count = outputs[_LOGITS].row_shape[-1]
        # As transformers calls those that nobody named.
        labels = self._labels(count) or tuple(f"LABEL_{index}" for index in range(count))
        step = TokenLabels(labels=labels)
        select = () if len(outputs) == 1 else (Select(outputs=(step.output,)),)
        return (step, *select), f"config.json: {len(labels)} labels of tokens: token-labels"

    def _labels(self, count: int) -> tuple[str, ...]:
        names = self._config.get("id2label")
        if not isinstance(names, dict):
            return ()
        labels = tuple(str(names.get(str(index), "")) for index in range(len(names)))
        return labels if len(labels) == count and all(labels) else ()

    def pooling(self, outputs: Mapping[str, TensorSpec]) -> tuple[tuple[AfterStep, ...], str]:
        select = () if len(outputs) == 1 else (Select(outputs=(_EMBEDDING,)),)
        if _SENTENCE in outputs:
            return (Normalize(input=_SENTENCE, output=_EMBEDDING), *select), f"{_SENTENCE}: normalize"
        states = next(name for name in _STATES if name in outputs)
        about = self._read("1_Pooling/config.json")
        modes = [
            name.removeprefix("pooling_mode_") for name, is_on in about.items() if is_on is True and "mode" in name
        ]
        known: dict[str, AfterStep] = {
            "mean_tokens": MeanPool(input=states, output=_EMBEDDING),
            "cls_token": FirstToken(input=states, output=_EMBEDDING),
        }
        if len(modes) > 1 or (modes and modes[0] not in known):
            raise ConfigurationError(
                f"1_Pooling/config.json pools by {', '.join(modes)}, which no step does. Declare the steps in a file: "
                "--steps steps.toml"
            )
        step = known[modes[0] if modes else "mean_tokens"]
        name = step.__struct_config__.tag
        return (step, Normalize(), *select), f"{states}: {name}, normalize"

    def _read(self, name: str) -> dict[str, Any]:
        """A file of JSON; empty if there is none."""
        path = self._folder / name
        if not path.is_file():
            return {}
        try:
            content = msgspec.json.decode(path.read_bytes())
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigurationError(
                f"{path} cannot be read: {clipped(str(error))}. Export the model again."
            ) from error
        return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def _sides(size: Any) -> tuple[int, int] | None:
    """Height and width, as image processors spell them."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict) and isinstance(size.get("height"), int) and isinstance(size.get("width"), int):
        return size["height"], size["width"]
    return None


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(map(float, values)) if isinstance(values, Sequence) and not isinstance(values, str) else ()

"""Small models as exports have them: one that labels tokens and one for pairs of texts, with what each computes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper
from tokenizers import Tokenizer

from tests.support.exports import initializers, token_inputs, trained_tokenizer, write_export, write_json
from tests.support.graphs import model_of, value

LABELS = ("O", "B-THING", "I-THING", "B-TIME", "I-TIME")
_NAMED = {"parcel": "B-THING", "film": "B-THING", "battery": "B-THING", "two": "B-TIME", "weeks": "I-TIME"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairExport:
    """A folder with a model that scores pairs of texts."""

    folder: Path
    tokenizer: Tokenizer
    weights: np.ndarray

    def scores(self, text: str, pair: str) -> np.ndarray:
        encoded = self.tokenizer.encode(text, pair)
        signs = 1 - 2 * np.array(encoded.type_ids)
        logits = (self.weights[encoded.ids] * signs[:, None]).sum(axis=0)
        raised = np.exp(logits - logits.max())
        found: np.ndarray = raised / raised.sum()
        return found


def token_classifier(folder: Path) -> Path:
    """A model that knows the words of `_NAMED`: each token has the label of its word, with a score of about 0.95."""
    tokenizer = trained_tokenizer()
    weights = np.zeros((tokenizer.get_vocab_size(), len(LABELS)), np.float32)
    weights[:, 0] = 5
    for word, label in _NAMED.items():
        for token in tokenizer.encode(word, add_special_tokens=False).ids:
            weights[token] = 5 * (np.array(LABELS) == label)
    nodes = [
        helper.make_node("Gather", ["weights", "input_ids"], ["logits"]),
        helper.make_node("Identity", ["attention_mask"], ["unused"]),
    ]
    outputs = [value("logits", ("rows", "tokens", len(LABELS)))]
    write_export(
        folder, model_of(nodes, token_inputs(), outputs, weights=initializers({"weights": weights})), tokenizer
    )
    about = {"architectures": ["BertForTokenClassification"], "id2label": dict(enumerate(LABELS))}
    write_json(folder / "config.json", {**about, "max_position_embeddings": 64})
    return folder


def pair_classifier(folder: Path) -> PairExport:
    """A model whose scores change their sign with the type of a token, so that the order of the texts matters."""
    tokenizer = trained_tokenizer()
    weights = np.random.default_rng(3).normal(0, 0.2, (tokenizer.get_vocab_size(), 3)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["weights", "input_ids"], ["of_tokens"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["types", "minus_two"], ["doubled"]),
        helper.make_node("Add", ["doubled", "one"], ["signs"]),
        helper.make_node("Mul", ["signs", "mask"], ["signed"]),
        helper.make_node("Unsqueeze", ["signed", "last"], ["signed3"]),
        helper.make_node("Mul", ["of_tokens", "signed3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "middle"], ["logits"], keepdims=0),
    ]
    arrays = {
        "weights": weights,
        "minus_two": np.array([-2], np.float32),
        "one": np.array([1], np.float32),
        "last": np.array([2], np.int64),
        "middle": np.array([1], np.int64),
    }
    types = value("token_type_ids", ("rows", "tokens"), TensorProto.INT64)
    model = model_of(nodes, [*token_inputs(), types], [value("logits", ("rows", 3))], weights=initializers(arrays))
    write_export(folder, model, tokenizer)
    labels = {"0": "contradiction", "1": "neutral", "2": "entailment"}
    write_json(folder / "config.json", {"id2label": labels, "max_position_embeddings": 64})
    return PairExport(folder=folder, tokenizer=tokenizer, weights=weights)

"""Small models as exports have them, each with the library's own computation to compare with.

A text classifier and an embedding model with a tokenizer that is trained here, and a classifier of digits as images.
"""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing
from tokenizers.trainers import WordPieceTrainer

from tests.support.graphs import model_of, value

REVIEWS = {
    "negative": (
        "the delivery was late and the parcel was broken",
        "a terrible film, I left before the end",
        "the battery died after two days, a bad buy",
        "rude staff and cold food, never again",
    ),
    "positive": (
        "the delivery was quick and the parcel was perfect",
        "a wonderful film, I stayed until the end",
        "the battery lasts for two weeks, a good buy",
        "kind staff and warm food, we come again",
    ),
}
SENTENCES = tuple(sentence for group in REVIEWS.values() for sentence in group)
WIDTH = 16
_TOKENS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class TextExport:
    """A folder as optimum writes it, with the tokenizer and the weights that its graph has."""

    folder: Path
    tokenizer: Tokenizer
    weights: np.ndarray
    bias: np.ndarray

    def ids(self, text: str) -> list[int]:
        encoded: list[int] = self.tokenizer.encode(text).ids
        return encoded

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """The probabilities that the classifier gives, row by row."""
        logits = np.array([self.weights[self.ids(text)].sum(axis=0) for text in texts]) + self.bias
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)

    def embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """What sentence-transformers does: the mean of all tokens, of length one."""
        pooled = np.array([np.tanh(self.weights[self.ids(text)]).mean(axis=0) for text in texts])
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


@cache
def trained_tokenizer() -> Tokenizer:
    """A WordPiece tokenizer of the sentences above, with [CLS] and [SEP] around a text."""
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))  # noqa: S106 - a token of text
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    trainer = WordPieceTrainer(
        vocab_size=_TOKENS, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def text_classifier(folder: Path, *, dense: bool = False) -> TextExport:
    """Logistic regression over the counts of tokens, trained on the reviews and exported as a graph of tokens.

    With `dense`, a product with weights follows that changes nothing: what can be quantized.
    """
    tokenizer = trained_tokenizer()
    size = tokenizer.get_vocab_size()
    counts = np.array([np.bincount(tokenizer.encode(text).ids, minlength=size) for text in SENTENCES])
    labels = [group for group, texts in REVIEWS.items() for _ in texts]
    fitted = LogisticRegression().fit(counts, labels)
    # Two classes as logits of each: the one of the first is 0.
    weights = np.stack([np.zeros(size), fitted.coef_[0]], axis=1).astype(np.float32)
    bias = np.array([0, fitted.intercept_[0]], np.float32)
    nodes = [
        helper.make_node("Gather", ["weights", "input_ids"], ["of_tokens"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["of_tokens", "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "middle"], ["summed"], keepdims=0),
        helper.make_node("Add", ["summed", "bias"], ["scores" if dense else "logits"]),
        *([helper.make_node("MatMul", ["scores", "unit"], ["logits"])] if dense else []),
    ]
    arrays = {
        **({"unit": np.eye(2, dtype=np.float32)} if dense else {}),
        "weights": weights,
        "bias": bias,
        "last": np.array([2], np.int64),
        "middle": np.array([1], np.int64),
    }
    model = model_of(nodes, token_inputs(), [value("logits", ("rows", 2))], weights=initializers(arrays))
    write_export(folder, model, tokenizer)
    write_json(
        folder / "config.json",
        {
            "architectures": ["BertForSequenceClassification"],
            "id2label": {"0": "negative", "1": "positive"},
            "max_position_embeddings": 64,
            "pad_token_id": 0,
        },
    )
    return TextExport(folder=folder, tokenizer=tokenizer, weights=weights, bias=bias)


def embedding_model(folder: Path) -> TextExport:
    """A vector for each token, without any meaning, as `last_hidden_state`."""
    tokenizer = trained_tokenizer()
    random = np.random.default_rng(7)
    weights = random.standard_normal((tokenizer.get_vocab_size(), WIDTH)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["weights", "input_ids"], ["of_tokens"]),
        helper.make_node("Tanh", ["of_tokens"], ["last_hidden_state"]),
        helper.make_node("Identity", ["attention_mask"], ["unused"]),
    ]
    outputs = [value("last_hidden_state", ("rows", "tokens", WIDTH))]
    model = model_of(nodes, token_inputs(), outputs, weights=initializers({"weights": weights}))
    write_export(folder, model, tokenizer)
    write_json(folder / "config.json", {"architectures": ["BertModel"], "max_position_embeddings": 64})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 32})
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    return TextExport(folder=folder, tokenizer=tokenizer, weights=weights, bias=np.zeros(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageExport:
    """The classifier of digits: its file, the steps that it needs, and scikit-learn's own."""

    path: Path
    steps: Path
    classifier: LogisticRegression
    images: Sequence[bytes]
    """The digits as PNG files."""
    pixels: np.ndarray
    """The same as scikit-learn has them, `(rows, 64)` of 0 to 16."""


IMAGE_STEPS = """
[[before]]
kind = "image"
output = "input"
size = [8, 8]
channels = 1
scale = 0.06274509803921569 # 16 / 255

[[after]]
kind = "softmax"

[[after]]
kind = "argmax"
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]

[[after]]
kind = "top-k"
k = 3
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
"""


def image_classifier(folder: Path, *, rows: int = 40) -> ImageExport:
    """Logistic regression over the pixels of scikit-learn's digits, exported as logits."""
    digits = load_digits()
    # Grey levels that a file can hold.
    grey = np.round(digits.data * 255 / 16).astype(np.uint8)
    pixels = (grey * (16 / 255)).astype(np.float32)
    classifier = LogisticRegression(max_iter=300).fit(pixels[:1200], digits.target[:1200])
    nodes = [
        helper.make_node("MatMul", ["input", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
    ]
    arrays = {"weights": classifier.coef_.T.astype(np.float32), "bias": classifier.intercept_.astype(np.float32)}
    model = model_of(
        nodes, [value("input", ("rows", 64))], [value("logits", ("rows", 10))], weights=initializers(arrays)
    )
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    (folder / "steps.toml").write_text(IMAGE_STEPS)
    chosen = slice(1200, 1200 + rows)
    return ImageExport(
        path=folder / "model.onnx",
        steps=folder / "steps.toml",
        classifier=classifier,
        images=[png_of(row.reshape(8, 8)) for row in grey[chosen]],
        pixels=pixels[chosen],
    )


def png_of(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def token_inputs() -> list[onnx.ValueInfoProto]:
    return [value(name, ("rows", "tokens"), TensorProto.INT64) for name in ("input_ids", "attention_mask")]


def initializers(arrays: dict[str, np.ndarray]) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(array, name) for name, array in arrays.items()]


def write_export(folder: Path, model: onnx.ModelProto, tokenizer: Tokenizer) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    tokenizer.save(str(folder / "tokenizer.json"))


def write_json(path: Path, content: dict[str, object]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))

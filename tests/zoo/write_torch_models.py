"""Writes `torch_models/`: small models as `torch.onnx.export` writes them, with rows and what PyTorch predicts.

Needs PyTorch, which the zoo itself does not: `.inferlane/torch/bin/python tests/zoo/write_torch_models.py`
(`.ci/torch.sh` makes that environment).
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

FOLDER = Path(__file__).parent / "torch_models"
ROWS = 6
RANDOM = np.random.default_rng(11)
FREE = {0: torch.export.Dim("rows")}


class LastStep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(4, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, steps: torch.Tensor) -> Any:
        states, _ = self.memory(steps)
        return self.head(states[:, -1])


class Encoder(nn.Module):
    """Attention over tokens of any number, with a mask, pooled by the mean: the shape of a sentence embedding model."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        tokens = self.embedding(input_ids)
        scores = self.query(tokens) @ self.key(tokens).transpose(1, 2) / 8**0.5
        hidden = scores.masked_fill(attention_mask[:, None, :] == 0, -1e9).softmax(-1) @ self.value(tokens)
        kept = attention_mask[:, :, None].to(hidden.dtype)
        return (hidden * kept).sum(1) / kept.sum(1)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> Any:
        return torch.tanh(self.left(left) + self.right(right))


class NoRows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(5))

    def forward(self, features: torch.Tensor) -> Any:
        return torch.stack([(features * self.weights).sum(), features.max()])


def numbers(*shape: int) -> np.ndarray:
    return RANDOM.normal(0, 1, shape).astype(np.float32)


def write(name: str, module: nn.Module, inputs: dict[str, np.ndarray], *, free: Any = FREE, **options: Any) -> None:
    """Export a module, and keep its inputs and outputs; `free` are the free axes of each input."""
    module = module.eval()
    examples = tuple(torch.from_numpy(array) for array in inputs.values())
    if options.pop("single", False):
        outputs = np.stack([module(*(part[row] for part in examples)).numpy() for row in range(ROWS)])
        examples = tuple(part[0] for part in examples)
    else:
        outputs = module(*examples).numpy()
    if options.pop("one_row", False):
        examples = tuple(part[:1] for part in examples)
    shapes = None if free is None else tuple(free for _ in examples)
    program = torch.onnx.export(
        module, examples, dynamo=True, verbose=False, input_names=list(inputs), output_names=["output"],
        dynamic_shapes=shapes,
    )  # fmt: skip
    program.save(str(FOLDER / f"{name}.onnx"), external_data=options.pop("external", False))
    _drop_traces(FOLDER / f"{name}.onnx")
    arrays: dict[str, Any] = {**inputs, "output": outputs}
    np.savez(FOLDER / f"{name}.npz", **arrays)


def _drop_traces(path: Path) -> None:
    """Remove what the exporter notes of each node: stack traces, with the paths of whoever's machine it was."""
    model = onnx.load(path, load_external_data=False)
    for graph in (model.graph, *model.functions):
        for node in graph.node:
            kept = [entry for entry in node.metadata_props if "/" not in entry.value]
            del node.metadata_props[:]
            node.metadata_props.extend(kept)
    path.write_bytes(model.SerializeToString())


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    torch.manual_seed(5)
    with torch.no_grad():
        perceptron = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3), nn.Softmax(dim=1))
        write("perceptron", perceptron, {"features": numbers(ROWS, 8)})
        pixels = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)
        )
        write("convolution", pixels, {"image": numbers(ROWS, 1, 8, 8)})
        write("memory", LastStep(), {"steps": numbers(ROWS, 6, 4)})
        tokens = RANDOM.integers(1, 20, (ROWS, 7))
        lengths = RANDOM.integers(2, 8, ROWS)
        mask = (np.arange(7) < lengths[:, None]).astype(np.int64)
        both = {0: torch.export.Dim("rows"), 1: torch.export.Dim("length")}
        write("encoder", Encoder(), {"input_ids": tokens * mask, "attention_mask": mask}, free=both)
        write("two-inputs", TwoInputs(), {"left": numbers(ROWS, 3), "right": numbers(ROWS, 2)})
        write("half", nn.Linear(8, 4).half(), {"features": numbers(ROWS, 8).astype(np.float16)})
        write("fixed-batch", nn.Linear(8, 4), {"features": numbers(ROWS, 8)}, free=None, one_row=True)
        write("no-rows", NoRows(), {"features": numbers(ROWS, 5)}, free=None, single=True)
        write(
            "external", nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 2)), {"features": numbers(ROWS, 8)}, external=True
        )


if __name__ == "__main__":
    main()

#!/usr/bin/env bash
# Adds models of PyTorch, in an environment of its own: PyTorch's wheels bring 3 GB for GPUs, which nothing else needs.
# Needs .venv (./test.sh makes it).
set -euo pipefail
cd "$(dirname "$0")/.."

readonly TORCH=.inferlane/torch
[[ -x $TORCH/bin/python ]] || .venv/bin/python -m venv "$TORCH"
.venv/bin/uv pip sync --quiet --python "$TORCH" --require-hashes .ci/torch.lock
.venv/bin/uv pip install --quiet --python "$TORCH" --no-deps --editable .
# Compiled once, also where the environment says not to: each model is converted in a process of its own.
env -u PYTHONDONTWRITEBYTECODE "$TORCH/bin/python" -c "import torch.onnx, torch.export, onnxscript"
"$TORCH/bin/python" -m pytest tests/pytorch

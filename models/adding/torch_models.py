"""Models of PyTorch: exported programs, TorchScript and pickled modules, as ONNX. Used in a child process alone."""

import io
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from inferlane.errors import ConfigurationError
from models.adding.check_rows import read_columns
from models.adding.fitted_models import LibraryModel
from models.adding.sources import SourceKind

# An export with one row would take the number of rows as fixed.
_EXAMPLE_ROWS = 2
_ROWS = "rows"


def open_torch_model(path: Path, kind: SourceKind) -> LibraryModel:
    """Open a file of `torch.export.save`, `torch.jit.save` or `torch.save`.

    Raises:
        ConfigurationError: it holds no module, but its weights alone, or something else.
    """
    if not zipfile.is_zipfile(path):
        raise ConfigurationError(f"{path} is no file of torch.export.save, torch.jit.save or torch.save")
    match kind:
        case SourceKind.TORCH_EXPORT:
            return _Exported(torch.export.load(path))
        case SourceKind.TORCH_SCRIPT:
            return _Script(torch.jit.load(path, map_location="cpu"), path)
    module = torch.load(path, map_location="cpu", weights_only=False)
    if isinstance(module, Mapping):
        raise ConfigurationError(
            f"{path} holds weights by name (a state_dict) and no module: they do not say what is computed with them. "
            "Load them into the module, export it, and add the .pt2 file: torch.export.save(torch.export.export("
            "module.eval(), (example,), dynamic_shapes=({0: torch.export.Dim('rows')},)), 'model.pt2')"
        )
    if not isinstance(module, torch.nn.Module):
        raise ConfigurationError(f"{path} holds a {type(module).__name__}, which is no torch.nn.Module")
    return _Module(module.eval(), path)


class _TorchModel(LibraryModel):
    def __init__(self, name: str) -> None:
        self.library = f"PyTorch {torch.__version__}"
        self.name = name

    def predictions(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs of PyTorch for these inputs, each as an array with the rows on its first axis."""
        with torch.no_grad():
            found = self._call([torch.from_numpy(np.ascontiguousarray(array)) for array in inputs.values()])
        leaves = torch.utils._pytree.tree_leaves(found)  # noqa: SLF001 - what flattens outputs in the order of an export
        return [leaf.numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]

    def _call(self, inputs: Sequence[torch.Tensor]) -> Any:
        raise NotImplementedError


class _Exported(_TorchModel):
    """An exported program, which knows its inputs and which of their axes are free."""

    def __init__(self, program: Any) -> None:
        super().__init__("ExportedProgram")
        self._program = program

    def to_onnx(self, rows: Path | None) -> onnx.ModelProto:
        """Return the exported program as an ONNX graph; its own dynamic axes stay dynamic."""
        del rows
        return _exported(self._program)

    def _call(self, inputs: Sequence[torch.Tensor]) -> Any:
        _, named = self._program.example_inputs or ((), {})
        count = len(inputs) - len(named)
        return self._program.module()(*inputs[:count], **dict(zip(named, inputs[count:], strict=True)))


class _Module(_TorchModel):
    """A module; the rows of --check say what its inputs are."""

    def __init__(self, module: Any, path: Path) -> None:
        super().__init__(type(module).__name__)
        self._module = module
        self._path = path

    def to_onnx(self, rows: Path | None) -> onnx.ModelProto:
        """Export the module with `rows` as example inputs, the first axis dynamic, and return the ONNX graph."""
        examples = _examples(rows, self._path)
        free = tuple({0: torch.export.Dim(_ROWS)} for _ in examples)
        return _exported(self._module, tuple(examples.values()), dynamic_shapes=free, input_names=list(examples))

    def _call(self, inputs: Sequence[torch.Tensor]) -> Any:
        return self._module(*inputs)


class _Script(_TorchModel):
    """TorchScript; the rows of --check say what its inputs are."""

    def __init__(self, module: Any, path: Path) -> None:
        super().__init__(f"TorchScript {module.original_name}")
        self._module = module.eval()
        self._path = path

    def to_onnx(self, rows: Path | None) -> onnx.ModelProto:
        """Export the TorchScript with `rows` as example inputs, the first axis dynamic, and return the ONNX graph."""
        examples = _examples(rows, self._path)
        buffer = io.BytesIO()
        # The other exporter takes no TorchScript.
        torch.onnx.export(
            self._module,
            tuple(examples.values()),
            buffer,
            dynamo=False,
            input_names=list(examples),
            output_names=["output"],
            dynamic_axes={name: {0: _ROWS} for name in (*examples, "output")},
        )
        return onnx.load_model_from_string(buffer.getvalue())

    def _call(self, inputs: Sequence[torch.Tensor]) -> Any:
        return self._module(*inputs)


def _exported(model: Any, examples: tuple[torch.Tensor, ...] = (), **options: Any) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, examples, dynamo=True, verbose=False, **options)
    converted: onnx.ModelProto = program.model_proto
    return converted


def _examples(rows: Path | None, path: Path) -> dict[str, torch.Tensor]:
    """The first rows of a file, by the names of the inputs."""
    if rows is None:
        raise ConfigurationError(
            f"{path} does not say what its inputs are: give some rows with --check rows.npz, an array of at least "
            f"{_EXAMPLE_ROWS} rows for each input, in their order. Or add a file of torch.export.save"
        )
    if rows.suffix.lower() == ".npz":
        with np.load(rows, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    else:
        arrays = {"input": np.stack(list(read_columns(rows).values()), axis=1).astype(np.float32)}
    short = [name for name, array in arrays.items() if len(array) < _EXAMPLE_ROWS]
    if short or not arrays:
        raise ConfigurationError(f"--check {str(rows)!r} needs at least {_EXAMPLE_ROWS} rows for each input")
    return {name: torch.from_numpy(np.ascontiguousarray(array[:_EXAMPLE_ROWS])) for name, array in arrays.items()}

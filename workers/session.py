"""One ONNX model, loaded and warm."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from inferlane.errors import ConfigurationError, ModelError
from inferlane.quoting import clipped
from inferlane.wire.tensors import numpy_dtype

if TYPE_CHECKING:
    from models.catalog import ModelVersion


class OnnxModel:
    """A model version on the CPU. `run` may be called from any one thread at a time."""

    def __init__(self, version: "ModelVersion", *, intra_op_num_threads: int) -> None:
        """Load the model.

        Raises:
            ConfigurationError: onnxruntime cannot load the file.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = intra_op_num_threads
        options.inter_op_num_threads = 1
        # A spinning thread answers sooner and takes a core from everybody else on the machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.version = version
        self._output_names = [spec.name for spec in version.signature.outputs]
        try:
            self._session = onnxruntime.InferenceSession(
                str(version.path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises pybind types of its own with no common base
            raise ConfigurationError(f"cannot load {version.path}: {error}") from error

    def warm_up(self, rows: int) -> None:
        """Run zeros of one row and of `rows` rows, so that the first client does not pay for allocations.

        Raises:
            ModelError: the model cannot run on zeros of its own signature.
        """
        for count in (1, rows):
            self.run(
                {
                    spec.name: np.zeros((count, *spec.row_shape), dtype=numpy_dtype(spec.datatype))
                    for spec in self.version.signature.inputs
                }
            )

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs, each `(rows, …)`.

        Raises:
            ModelError: onnxruntime failed, or an output has another number of rows than the inputs.
        """
        rows = len(next(iter(inputs.values())))
        try:
            arrays = self._session.run(self._output_names, dict(inputs))
        except Exception as error:  # as above: no common base
            raise ModelError(
                f"onnxruntime failed on a batch of {rows} rows: {clipped(str(error), limit_chars=1_000)}"
            ) from error
        for name, array in zip(self._output_names, arrays, strict=True):
            if len(array) != rows:
                raise ModelError(f"output {name!r} has {len(array)} rows for {rows} rows of input")
        return dict(zip(self._output_names, arrays, strict=True))

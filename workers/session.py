"""One ONNX model, loaded."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from inferlane.errors import ConfigurationError, ModelError
from inferlane.quoting import clipped
from models.artifact import check_artifact, read_artifact
from models.signatures import describe, signature_of

if TYPE_CHECKING:
    from models.catalog import ModelVersion


class OnnxModel:
    """A model version on the CPU. `run` may be called from any one thread at a time."""

    def __init__(self, version: "ModelVersion", *, intra_op_num_threads: int) -> None:
        """Load the model from files that have the digest of their version.

        Raises:
            ConfigurationError: the files are not those that version.toml describes, or onnxruntime cannot load them.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = intra_op_num_threads
        options.inter_op_num_threads = 1
        # A spinning thread answers sooner and takes a core from everybody else on the machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.version = version
        self._output_names = [spec.name for spec in version.signature.outputs]
        artifact = read_artifact(version.path)
        check_artifact(version.path, artifact, digest=version.digest, size_bytes=version.size_bytes)
        # onnxruntime works on these very bytes and does not keep them alive.
        self._external = artifact.external
        if self._external:
            options.add_external_initializers_from_files_in_memory(
                list(self._external), list(self._external.values()), list(map(len, self._external.values()))
            )
        try:
            self._session = onnxruntime.InferenceSession(
                artifact.model, sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises pybind types of its own with no common base
            raise ConfigurationError(
                f"{version.path}: onnxruntime cannot load it: {clipped(str(error), limit_chars=1_000)}"
            ) from error
        found = signature_of(self._session)
        if found != version.signature:
            raise ConfigurationError(
                f"{version.path}: the model has {describe(found)}, but version.toml says "
                f"{describe(version.signature)}. Correct [[inputs]] and [[outputs]]."
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
            if np.shape(array)[:1] != (rows,):
                raise ModelError(f"output {name!r} has the shape {list(np.shape(array))} for {rows} rows of input")
        return dict(zip(self._output_names, arrays, strict=True))

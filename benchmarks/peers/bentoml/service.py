"""BentoML with adaptive batching, as its documentation shows."""

import os
from typing import Any

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Bench:
    """One onnxruntime session."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"]
        )

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=10_000)
    def predict(self, instances: list[list[float]]) -> list[dict[str, Any]]:
        labels, probabilities = self._session.run(None, {"input": np.array(instances, dtype=np.float32)})
        return [
            {"label": label, "probabilities": row}
            for label, row in zip(labels.tolist(), probabilities.tolist(), strict=True)
        ]

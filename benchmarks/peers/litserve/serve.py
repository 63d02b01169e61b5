"""LitServe with its batching, as its documentation shows."""

import os
from typing import Any

import litserve
import numpy as np
import onnxruntime


class OnnxApi(litserve.LitAPI):
    """One onnxruntime session."""

    def setup(self, device: str) -> None:
        del device
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"]
        )

    def decode_request(self, request: dict[str, Any]) -> np.ndarray:
        return np.array(request["instances"][0], dtype=np.float32)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        labels, probabilities = self._session.run(None, {"input": rows})
        return labels, probabilities

    def unbatch(self, output: tuple[np.ndarray, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        return list(zip(*output, strict=True))

    def encode_response(self, output: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
        label, probabilities = output
        return {"labels": [int(label)], "probabilities": [probabilities.tolist()]}


if __name__ == "__main__":
    api = OnnxApi(max_batch_size=64, batch_timeout=0.005)
    litserve.LitServer(api, accelerator="cpu").run(
        port=int(os.environ["BENCH_PORT"]), generate_client_file=False, log_level="warning", access_log=False
    )

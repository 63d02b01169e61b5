"""Asks a stack through KServe's own client over gRPC; runs in an environment of KServe's and prints what it got."""

import asyncio
import json
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest


async def ask(address: str, authority: str, key: str) -> dict[str, object]:
    """The answers of the samples and of a model of two inputs."""
    with open(authority, "rb") as file:  # noqa: ASYNC230, PTH123 - nothing else runs here
        credentials = grpc.ssl_channel_credentials(file.read())
    client = InferenceGRPCClient(address, creds=credentials, timeout=120)
    metadata = [("authorization", f"Bearer {key}")]

    async def infer(model: str, *tensors: tuple[str, np.ndarray, str]) -> dict[str, list[object]]:
        inputs = []
        for name, values, datatype in tensors:
            made = InferInput(name, list(values.shape), datatype)
            made.set_data_from_numpy(values, binary_data=True)
            inputs.append(made)
        request = InferRequest(model, inputs, parameters={"timeout_s": 60})
        answer = await client.infer(request, headers=metadata)
        return {output.name: output.as_numpy().tolist() for output in answer.outputs}

    iris = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], np.float32)
    left, right = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([10, 20], np.int64)
    return {
        "live": await client.is_server_live(headers=metadata),
        "ready": await client.is_server_ready(headers=metadata),
        "iris is ready": await client.is_model_ready("iris", headers=metadata),
        "iris": (await infer("iris", ("input", iris, "FP32")))["label"],
        "digits": len((await infer("digits", ("input", np.zeros((3, 64), np.float32), "FP32")))["label"]),
        "pair": (await infer("pair", ("left", left, "FP32"), ("right", right, "INT64")))["sum"],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(ask(*sys.argv[1:]))))

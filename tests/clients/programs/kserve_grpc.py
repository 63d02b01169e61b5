"""KServe's client over gRPC, in an environment of its own; asked on stdin, answers on stdout."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest


async def ask(asked: dict[str, Any], authority: bytes) -> dict[str, Any]:
    """The outputs of each model."""
    credentials = grpc.ssl_channel_credentials(authority)
    client = InferenceGRPCClient(asked["grpc"], creds=credentials, timeout=120)
    key = [("authorization", f"Bearer {asked['key']}")]
    found = {}
    for model, tensors in asked["questions"].items():
        assert await client.is_model_ready(model, headers=key)
        inputs = []
        for name, tensor in tensors.items():
            made = InferInput(name, tensor["shape"], tensor["datatype"])
            dtype = {"FP32": np.float32, "INT64": np.int64}[tensor["datatype"]]
            made.set_data_from_numpy(np.array(tensor["data"], dtype).reshape(tensor["shape"]), binary_data=True)
            inputs.append(made)
        request = InferRequest(model, inputs, model_version="v1", parameters={"timeout_s": 60})
        answer = await client.infer(request, headers=key)
        found[model] = {output.name: output.as_numpy().tolist() for output in answer.outputs}
    return found


told = json.load(sys.stdin)
found_by_model = asyncio.run(ask(told, Path(told["ca"]).read_bytes()))
sys.stdout.write("\n" + json.dumps(found_by_model))

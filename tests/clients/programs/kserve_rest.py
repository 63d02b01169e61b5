"""KServe's client over REST, in an environment of its own; asked on stdin, answers on stdout."""

import asyncio
import json
import ssl
import sys
from typing import Any

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def ask(asked: dict[str, Any]) -> dict[str, Any]:
    """The outputs of each model."""
    trust = ssl.create_default_context(cafile=asked["ca"])
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=120, verify=trust))
    found = {}
    for model, tensors in asked["questions"].items():
        inputs = []
        for name, tensor in tensors.items():
            made = InferInput(name, tensor["shape"], tensor["datatype"])
            dtype = {"FP32": np.float32, "INT64": np.int64}[tensor["datatype"]]
            made.set_data_from_numpy(np.array(tensor["data"], dtype).reshape(tensor["shape"]), binary_data=True)
            inputs.append(made)
        request = InferRequest(model_name=model, infer_inputs=inputs, parameters={"timeout_s": 60})
        key = {"authorization": f"Bearer {asked['key']}"}
        answer = await client.infer(asked["url"], request, model_name=f"{model}/versions/v1", headers=key)
        found[model] = {output.name: output.as_numpy().tolist() for output in answer.outputs}
    await client.close()
    return found


sys.stdout.write("\n" + json.dumps(asyncio.run(ask(json.load(sys.stdin)))))

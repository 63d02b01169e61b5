"""The client of this repository, synchronous and asynchronous; asked on stdin, answers on stdout."""

import asyncio
import json
import sys
from typing import Any

import numpy as np

from inferlane_client import AsyncClient, Client, Tls

asked = json.load(sys.stdin)
access: dict[str, Any] = {"api_key": asked["key"], "tls": Tls(ca_file=asked["ca"]), "timeout_s": 120}
arrays = {
    model: {
        name: np.array(tensor["data"], {"FP32": np.float32, "INT64": np.int64}[tensor["datatype"]]).reshape(
            tensor["shape"]
        )
        for name, tensor in tensors.items()
    }
    for model, tensors in asked["questions"].items()
}


async def ask() -> dict[str, Any]:
    """The outputs of each model, all at once."""
    async with AsyncClient(asked["url"], **access) as client:
        calls = (client.predict_tensors(inputs, model=model, version="v1") for model, inputs in arrays.items())
        answers = await asyncio.gather(*calls)
    return {answer.model: {name: array.tolist() for name, array in answer.outputs.items()} for answer in answers}


if sys.argv[1] == "async":
    found = asyncio.run(ask())
else:
    with Client(asked["url"], **access) as client:
        answers = [client.predict_tensors(inputs, model=model, version="v1") for model, inputs in arrays.items()]
    found = {answer.model: {name: array.tolist() for name, array in answer.outputs.items()} for answer in answers}
sys.stdout.write(json.dumps(found))

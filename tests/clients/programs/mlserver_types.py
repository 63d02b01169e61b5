"""MLServer's types and codecs, in an environment of its own; asked on stdin, answers on stdout."""

import json
import ssl
import sys
import urllib.request

import numpy as np
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

asked = json.load(sys.stdin)
trust = ssl.create_default_context(cafile=asked["ca"])
found = {}
for model, tensors in asked["questions"].items():
    inputs = []
    for name, tensor in tensors.items():
        dtype = {"FP32": np.float32, "INT64": np.int64}[tensor["datatype"]]
        values = np.array(tensor["data"], dtype).reshape(tensor["shape"])
        made = NumpyCodec.encode_input(name, values)
        # What the codec makes of a vector has a second axis of one; the model's own shape has none.
        made.shape = tensor["shape"]
        inputs.append(made)
    body = InferenceRequest(inputs=inputs).model_dump_json(exclude_none=True).encode()
    call = urllib.request.Request(f"{asked['url']}/v2/models/{model}/versions/v1/infer", body)  # noqa: S310 - our own server
    call.add_header("authorization", f"Bearer {asked['key']}")
    call.add_header("content-type", "application/json")
    with urllib.request.urlopen(call, timeout=120, context=trust) as answer:  # noqa: S310 - as above
        response = InferenceResponse.model_validate_json(answer.read())
    found[model] = {
        output.name: NumpyCodec.decode_output(output).reshape(output.shape).tolist() for output in response.outputs
    }
sys.stdout.write("\n" + json.dumps(found))

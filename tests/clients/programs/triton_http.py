"""NVIDIA's Triton client over HTTP; asked on stdin, answers on stdout."""

import json
import sys

import numpy as np
import tritonclient.http as triton

asked = json.load(sys.stdin)
key = {"authorization": f"Bearer {asked['key']}"}
found = {}
address = asked["url"].removeprefix("https://")
options = {"ssl": True, "ssl_options": {"ca_certs": asked["ca"]}, "network_timeout": 120}
with triton.InferenceServerClient(address, **options) as client:
    for model, tensors in asked["questions"].items():
        inputs = []
        for name, tensor in tensors.items():
            made = triton.InferInput(name, tensor["shape"], tensor["datatype"])
            dtype = {"FP32": np.float32, "INT64": np.int64}[tensor["datatype"]]
            made.set_data_from_numpy(np.array(tensor["data"], dtype).reshape(tensor["shape"]))
            inputs.append(made)
        answer = client.infer(model, inputs, model_version="v1", headers=dict(key), parameters={"timeout_s": 60})
        names = [output["name"] for output in answer.get_response()["outputs"]]
        found[model] = {name: answer.as_numpy(name).tolist() for name in names}
sys.stdout.write(json.dumps(found))

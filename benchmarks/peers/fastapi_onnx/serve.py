"""FastAPI and onnxruntime in one process: a model behind an endpoint, as FastAPI's tutorial builds one."""

import os
from typing import Any

import numpy as np
import onnxruntime
from fastapi import FastAPI
from pydantic import BaseModel

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
app = FastAPI()


class Body(BaseModel):
    """Rows of features."""

    instances: list[list[float]]


# Not `async`: a model that computes would hold the event loop, so FastAPI's documentation puts it in the thread pool.
@app.post("/predict")
def predict(body: Body) -> dict[str, Any]:
    labels, probabilities = session.run(None, {"input": np.array(body.instances, dtype=np.float32)})
    return {"labels": labels.tolist(), "probabilities": probabilities.tolist()}


@app.get("/ready")
async def ready() -> dict[str, bool]:
    return {"ready": True}

"""The worker: a FastStream subscriber that answers each message to its `reply_to` topic."""

import os
from typing import Any

import numpy as np
import onnxruntime
from faststream import FastStream
from faststream.kafka import KafkaBroker

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
broker = KafkaBroker(os.environ["BENCH_KAFKA"])
app = FastStream(broker)


@broker.subscriber("requests", group_id="workers", auto_offset_reset="earliest", fetch_max_wait_ms=5)
async def infer(instances: list[list[float]]) -> dict[str, Any]:
    labels, probabilities = session.run(None, {"input": np.array(instances, dtype=np.float32)})
    return {"labels": labels.tolist(), "probabilities": probabilities.tolist()}

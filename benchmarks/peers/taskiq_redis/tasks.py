"""The broker, the results and the task, as taskiq's documentation sets them up on Redis."""

import os
from typing import Any

import numpy as np
import onnxruntime
from taskiq import TaskiqEvents, TaskiqState
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

broker = RedisStreamBroker(os.environ["BENCH_REDIS"]).with_result_backend(
    RedisAsyncResultBackend(os.environ["BENCH_REDIS"], result_ex_time=3600)
)
sessions: list[onnxruntime.InferenceSession] = []


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def load(_: TaskiqState) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions.append(
        onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
    )


@broker.task
async def infer(instances: list[list[float]]) -> dict[str, Any]:
    labels, probabilities = sessions[0].run(None, {"input": np.array(instances, dtype=np.float32)})
    return {"labels": labels.tolist(), "probabilities": probabilities.tolist()}

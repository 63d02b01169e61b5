"""The paths of the protocols of others, for what lets calls in and what sends them to their handlers."""

import re

EMBEDDINGS_PATH = "/v1/embeddings"
"""OpenAI's, whose clients read another form of errors."""

V2_ROOT = "/v2"
V2_LIVE_PATH, V2_READY_PATH = f"{V2_ROOT}/health/live", f"{V2_ROOT}/health/ready"
V2_HEALTH_PATHS = (V2_LIVE_PATH, V2_READY_PATH)
# Triton's and MLServer's model repository extension: a read, although it is a POST.
V2_INDEX_PATH = f"{V2_ROOT}/repository/index"
V2_MODEL_PATH, V2_VERSION_PATH = f"{V2_ROOT}/models/{{model}}", f"{V2_ROOT}/models/{{model}}/versions/{{version}}"

INFER_PATH = re.compile(rf"{V2_ROOT}/models/([^/]++)(?:/versions/([^/]++))?/infer", re.DOTALL)
"""The paths of the infer call: the model's name, and the version's where the path has one."""


def is_v2(path: str) -> bool:
    """Whether the path is one of the Open Inference Protocol."""
    return path == V2_ROOT or path.startswith(f"{V2_ROOT}/")

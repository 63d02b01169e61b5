"""The Open Inference Protocol V2 over REST, which the clients of Triton, KServe and MLServer speak."""

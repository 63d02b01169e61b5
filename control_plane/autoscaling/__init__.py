"""The scaling policy: KEDA's kafka scaler and the HPA as pure decisions, for the local stack and the simulator.

Nothing here reads a clock, a file or a broker: time, text and offsets are arguments. Modelled after KEDA 2.20.0 and the
HPA controller of Kubernetes 1.35.0; docs/scaling.md names the test vectors that hold each module to them.
"""

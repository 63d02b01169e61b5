"""The local stack: broker, store and every process of ours on one machine, started, watched and stopped."""

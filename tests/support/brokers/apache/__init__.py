"""Apache Kafka in KRaft mode from its Maven artifacts: no Docker, no download page, one JVM a node."""

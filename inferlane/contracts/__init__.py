"""What processes must agree on: records, results, outcomes, splits, topic names and payloads."""

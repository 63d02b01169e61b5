"""Workers: take a batch, infer, store the results, commit."""

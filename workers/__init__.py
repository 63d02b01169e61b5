"""Workers: fetch a batch, infer, store the results, commit."""

"""What Redis holds for us, and the connection to it: results, served versions, cancellations."""

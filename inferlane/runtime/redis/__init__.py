"""The store (Redis or Valkey): its connection, and results, served versions, windows and cancellations in it."""

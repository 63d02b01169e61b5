"""The service that POSTs results to the URLs that their requests named."""

"""The service over HTTP: JSON for any client, and the search page, behind the same limits as gRPC."""

"""The service over HTTP: JSON for any client, gRPC-Web, and the search page, behind the same limits as gRPC."""

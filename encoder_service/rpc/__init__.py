"""The gRPC service: conversions, interceptors, settings, metrics and the server itself."""

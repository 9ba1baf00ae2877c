"""The gRPC server: settings, admission control, the RPCs, health, metrics and traces."""

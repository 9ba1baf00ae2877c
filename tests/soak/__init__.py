"""Long tests of a running service, each a command. `make soak` runs them all."""

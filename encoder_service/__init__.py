"""Images in, codes and look-alikes out: the encoder, the search and the gRPC service over both."""

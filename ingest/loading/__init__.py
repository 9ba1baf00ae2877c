"""Loading a source into a gallery, and verifying the result."""

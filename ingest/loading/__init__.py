"""Load a source into a gallery: read, prepare, encode, store, index, verify, publish."""

"""Galleries in a folder: each version is an embedded Qdrant Edge shard."""

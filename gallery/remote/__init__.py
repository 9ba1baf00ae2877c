"""Galleries on a Qdrant server or cluster: each version is a collection."""

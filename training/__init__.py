"""Training autoencoders: the only place that imports TensorFlow."""

import os

# TensorFlow greets at every start; what it has to say about errors still comes through.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

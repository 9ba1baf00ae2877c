"""Training autoencoders: the only place that imports TensorFlow."""

import os

# TensorFlow is chatty on stderr; its errors come through as exceptions all the same.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

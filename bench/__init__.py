"""Measures ckptctl against `cp` and against TensorFlow; `make bench`."""

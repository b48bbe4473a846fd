"""Stock TensorFlow trains with increments; ckptctl merges them; training goes on."""

"""A chain made by TensorFlow on the spot, merged by ckptctl, restored and compared."""

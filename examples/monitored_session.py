"""The first example of DeepRec's incremental checkpoint page, on stock TensorFlow.

    python examples/monitored_session.py --dir /tmp/model --steps 100

Stop it at any moment and start it again: it goes on from the last increment.
"""

from __future__ import annotations

import argparse
import time

import tensorflow.compat.v1 as tf

from ckptctl.training import MonitoredTrainingSession


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--dir", default="test/test4tolerance/ckpt/")
    options.add_argument("--steps", type=int, default=1000, help="steps of this run")
    options.add_argument("--pause", type=float, default=1.0, help="seconds between steps")
    options.add_argument("--full-secs", type=float, default=60)
    options.add_argument("--increment-secs", type=float, default=20)
    given = options.parse_args()

    tf.disable_eager_execution()
    tf.logging.set_verbosity(tf.logging.ERROR)
    sparse_var = tf.get_variable(
        "a",
        shape=[30, 4],
        initializer=tf.ones_initializer(tf.float32),
        partitioner=tf.fixed_size_partitioner(num_shards=4),
    )
    tf.get_variable(
        "b",
        shape=[30, 4],
        initializer=tf.ones_initializer(tf.float32),
        partitioner=tf.fixed_size_partitioner(num_shards=4),
    )
    ids = tf.placeholder(dtype=tf.int64, name="ids")
    emb = tf.nn.embedding_lookup(sparse_var, ids)
    fun = tf.multiply(emb, 2.0, name="multiply")
    loss = tf.reduce_sum(fun, name="reduce_sum")
    gs = tf.train.get_or_create_global_step()
    opt = tf.train.AdagradOptimizer(0.1, initial_accumulator_value=1)
    g_v = opt.compute_gradients(loss)
    train_op = opt.apply_gradients(g_v, global_step=gs)

    with MonitoredTrainingSession(
        checkpoint_dir=given.dir,
        save_checkpoint_secs=given.full_secs,
        save_incremental_checkpoint_secs=given.increment_secs,
    ) as sess:
        for i in range(given.steps):
            step, _, value = sess.run([gs, train_op, loss], feed_dict={"ids:0": i % 10})
            if i in (0, given.steps - 1):
                print(f"step {step}  loss {value:.3f}", flush=True)
            time.sleep(given.pause)


if __name__ == "__main__":
    main()

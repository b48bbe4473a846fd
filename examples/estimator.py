"""Train with Estimator, export the model, and bring the export up to date.

The `model_fn` is that of DeepRec's documentation of incremental checkpoints. Needs
TensorFlow 2.15, the last release with tf.estimator:

    python examples/estimator.py --model-dir /tmp/model --export-dir /tmp/export

Run again with the same --model-dir, after a kill too, it goes on from the last increment.
"""

import argparse
import os
import tempfile

import tensorflow.compat.v1 as tf

from ckptctl import training


def model_fn(features, labels, mode, params):
    """Return the model: a table in four parts, and a dense layer."""
    table = tf.get_variable(
        "a",
        shape=[params["rows"], 4],
        initializer=tf.ones_initializer(tf.float32),
        partitioner=tf.fixed_size_partitioner(num_shards=4),
    )
    weights = tf.get_variable("b", shape=[4, 1], initializer=tf.ones_initializer(tf.float32))
    score = tf.squeeze(tf.nn.embedding_lookup(table, features["ids"]) @ weights, 1)
    loss = train_op = None
    if mode != tf.estimator.ModeKeys.PREDICT:
        loss = tf.reduce_mean(tf.square(score - labels))
    if mode == tf.estimator.ModeKeys.TRAIN:
        optimizer = tf.train.AdagradOptimizer(0.1, initial_accumulator_value=1)
        train_op = optimizer.minimize(loss, tf.train.get_global_step())

    # After the optimizer: the Saver records what the graph's updates change.
    scaffold = training.Scaffold(
        saver=training.Saver(sharded=True, incremental_save_restore=True),
        incremental_save_restore=True,
    )
    hooks = []
    if mode == tf.estimator.ModeKeys.TRAIN:
        hooks = [
            training.CheckpointSaverHook(
                checkpoint_dir=params["model_dir"],
                save_secs=params["save_checkpoints_secs"],
                save_steps=params["save_checkpoints_steps"],
                scaffold=scaffold,
                incremental_save_secs=params["incremental_save_secs"],
            )
        ]
    return tf.estimator.EstimatorSpec(
        mode,
        predictions={"score": score},
        loss=loss,
        train_op=train_op,
        training_chief_hooks=hooks,
        scaffold=scaffold,
    )


def input_fn(rows, steps):
    """Return batches of row numbers, few of them often, and what to learn for each."""
    ids = tf.data.Dataset.range(steps).map(lambda step: tf.stack([step % 10, step % rows]))
    return ids.map(lambda ids: ({"ids": ids}, tf.cast(ids, tf.float32) / float(rows)))


def serving_input_receiver_fn():
    """Return what a request holds."""
    ids = tf.placeholder(tf.int64, [None], "ids")
    return tf.estimator.export.ServingInputReceiver({"ids": ids}, {"ids": ids})


def main():
    """Train, evaluate, export; train on, and load the newest increment into the export."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model-dir", help="default: a temporary directory")
    parser.add_argument("--export-dir", help="default: a temporary directory")
    parser.add_argument("--rows", type=int, default=30)
    parser.add_argument("--steps", type=int, default=1000, help="before the export, and after")
    parser.add_argument("--save-checkpoints-secs", type=float)
    parser.add_argument("--save-checkpoints-steps", type=int)
    parser.add_argument("--incremental-save-secs", type=float, default=0.2)
    given = parser.parse_args()
    if given.save_checkpoints_secs is None and given.save_checkpoints_steps is None:
        given.save_checkpoints_secs = 60
    model_dir = given.model_dir or tempfile.mkdtemp()
    params = {
        "rows": given.rows,
        "model_dir": model_dir,
        "save_checkpoints_secs": given.save_checkpoints_secs,
        "save_checkpoints_steps": given.save_checkpoints_steps,
        "incremental_save_secs": given.incremental_save_secs,
    }
    estimator = training.Estimator(model_fn, model_dir, params=params)
    estimator.train(lambda: input_fn(given.rows, given.steps))
    print("evaluated:", estimator.evaluate(lambda: input_fn(given.rows, 100)))
    exported = estimator.export_saved_model(
        given.export_dir or tempfile.mkdtemp(), serving_input_receiver_fn, save_incr_model=True
    )
    print("exported:", exported.decode())

    with tf.Session(graph=tf.Graph()) as session:
        model = tf.saved_model.load(session, ["serve"], exported.decode())
        signature = model.signature_def["serving_default"]
        score, ids = signature.outputs["score"].name, signature.inputs["ids"].name
        print("score:", session.run(score, {ids: [1, 2, 3]}))
        estimator.train(lambda: input_fn(given.rows, given.steps))
        newest = tf.train.latest_checkpoint(os.path.join(model_dir, ".incremental_checkpoint"))
        if newest is None:
            raise SystemExit("no increment was saved: more --steps or less --incremental-save-secs")
        print("loaded:", *training.load_incremental(session, model, newest), sep="\n  ")
        print("score:", session.run(score, {ids: [1, 2, 3]}))


if __name__ == "__main__":
    tf.disable_eager_execution()
    tf.logging.set_verbosity(tf.logging.INFO)
    main()

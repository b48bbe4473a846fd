"""Adam whose sparse path writes only the rows of the gradient."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow.compat.v1 as tf1

__all__ = ["LazyAdam"]


class LazyAdam(tf1.train.AdamOptimizer):
    """Adam that leaves rows alone that a sparse gradient does not name.

    TensorFlow's own decays the moments of every row at every step, so all rows change and
    an increment would be as large as a full. Here a row's moments decay when it is used.
    Arguments as those of `tf.compat.v1.train.AdamOptimizer`.
    """

    def _resource_apply_sparse(self, grad: Any, var: Any, indices: Any) -> Any:
        return self._lazily(grad, var, indices)

    def _apply_sparse(self, grad: Any, var: Any) -> Any:
        return self._lazily(grad.values, var, grad.indices)

    def _lazily(self, grad: Any, var: Any, rows: Any) -> Any:
        power1, power2 = (
            tf.cast(power, var.dtype.base_dtype) for power in self._get_beta_accumulators()
        )
        beta1, beta2, epsilon, rate = (
            tf.cast(number, var.dtype.base_dtype)
            for number in (self._beta1_t, self._beta2_t, self._epsilon_t, self._lr_t)
        )
        rate = rate * tf.sqrt(1 - power2) / (1 - power1)
        m, v = self.get_slot(var, "m"), self.get_slot(var, "v")
        new_m = beta1 * tf.gather(m, rows) + (1 - beta1) * grad
        new_v = beta2 * tf.gather(v, rows) + (1 - beta2) * tf.square(grad)
        return tf.group(
            tf1.scatter_update(m, rows, new_m, use_locking=self._use_locking),
            tf1.scatter_update(v, rows, new_v, use_locking=self._use_locking),
            tf1.scatter_sub(
                var, rows, rate * new_m / (tf.sqrt(new_v) + epsilon), use_locking=self._use_locking
            ),
        )

"""EmbeddingVariables as a DeepRec parameter server keeps them, in a plain dict.

It trains with Adagrad, counts how often a key was seen, admits a key after `filter_freq`
of them, and gives the tensors that DeepRec's full and incremental savers would write.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

BUCKETS = 1000
LEARNING_RATE = 0.1


@dataclass
class Row:
    """One key: how often it was seen, and its numbers once it is admitted."""

    freq: int = 0
    value: np.ndarray | None = None
    slot: np.ndarray | None = None


@dataclass
class Table:
    """An EmbeddingVariable with an Adagrad slot, in `parts` parts."""

    name: str
    dim: int
    parts: int
    filter_freq: int = 0
    rows: dict[int, Row] = field(default_factory=dict)
    recorded: set[int] = field(default_factory=set)

    def train(self, keys: np.ndarray, random: np.random.Generator) -> None:
        """Look the keys up and apply a gradient to those that are admitted."""
        gradients = random.standard_normal((len(keys), self.dim)).astype(np.float32)
        for key, gradient in zip(keys.tolist(), gradients, strict=True):
            row = self.rows.setdefault(key, Row())
            row.freq += 1
            if row.freq < self.filter_freq:
                continue
            if row.value is None or row.slot is None:
                row.value = random.standard_normal(self.dim).astype(np.float32)
                row.slot = np.full(self.dim, 0.1, np.float32)
            row.slot = row.slot + gradient**2
            row.value = row.value - LEARNING_RATE * gradient / np.sqrt(row.slot)
            self.recorded.add(key)

    def admitted(self) -> dict[int, Row]:
        """Return the keys that own a row."""
        return {key: row for key, row in self.rows.items() if row.value is not None}

    def filtered(self) -> dict[int, int]:
        """Return the keys that were seen, but not often enough, and how often."""
        return {key: row.freq for key, row in self.rows.items() if row.value is None}

    def full(self, part: int) -> dict[str, np.ndarray]:
        """Return the nine tensors of each member of a part, as a full has them."""
        keys, offset = self._grouped(self.admitted(), part)
        filtered, filter_offset = self._grouped(self.filtered(), part)
        freqs, freqs_filtered = self._freqs(keys), self._freqs(filtered)
        none = np.zeros(0, np.int64)
        tensors = {}
        for member, values in self._members(keys, part).items():
            tensors |= {
                f"{member}-keys": keys,
                f"{member}-values": values,
                f"{member}-versions": none,
                f"{member}-freqs": freqs if self.filter_freq else none,
                f"{member}-keys_filtered": filtered,
                f"{member}-versions_filtered": none,
                f"{member}-freqs_filtered": freqs_filtered,
                f"{member}-partition_offset": offset,
                f"{member}-partition_filter_offset": filter_offset,
            }
        return tensors

    def increment(self, part: int) -> dict[str, np.ndarray]:
        """Return the five tensors of each member of a part, as an increment has them."""
        keys, offset = self._grouped(sorted(self.recorded), part)
        tensors = {}
        for member, values in self._members(keys, part).items():
            tensors |= {
                f"{member}-incr_partition_offset": offset,
                f"{member}-sparse_incr_keys": keys,
                f"{member}-sparse_incr_values": values,
                f"{member}-sparse_incr_versions": np.zeros(len(keys), np.int64),
                f"{member}-sparse_incr_freqs": self._freqs(keys),
            }
        return tensors

    def _grouped(self, keys, part: int) -> tuple[np.ndarray, np.ndarray]:
        mine = [key for key in keys if key % BUCKETS % self.parts == part]
        mine.sort(key=lambda key: key % BUCKETS)
        array = np.array(mine, np.int64)
        offset = np.searchsorted(array % BUCKETS, np.arange(BUCKETS + 1))
        return array, offset.astype(np.int32)

    def _members(self, keys: np.ndarray, part: int) -> dict[str, np.ndarray]:
        rows = [self.rows[key] for key in keys.tolist()]
        shape = (len(rows), self.dim)
        primary = f"{self.name}/part_{part}"
        return {
            primary: np.array([row.value for row in rows], np.float32).reshape(shape),
            f"{primary}/Adagrad": np.array([row.slot for row in rows], np.float32).reshape(shape),
        }

    def _freqs(self, keys: np.ndarray) -> np.ndarray:
        return np.array([self.rows[key].freq for key in keys.tolist()], np.int64)

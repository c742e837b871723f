"""Every random number of the program follows from the user's seed and a named stream.

Two streams never share numbers, so that a draw added to one changes no other, and a stream is
indexed (step, slot, round ...) instead of read one number after the other, so that work can be
continued, split over processes or repeated in part with the same result. Initial weights and the
draw of labeled cases are older than the streams and take the plain number.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What random numbers are drawn for. A new use takes a new number."""

    LABELED_PATCH = 0
    UNLABELED_PATCH = 1
    CASE_ORDER = 2
    TRAINING_STEP = 10
    LATER_NETWORK = 11
    CLASSIFIER_BATCH = 20
    CLASSIFIER_SPLIT = 21
    CLASSIFIER_DROPOUT = 22
    CLASSIFIER_WEIGHTS = 23
    CLASSIFIER_VIEWS = 24
    CLASSIFIER_TEST_VIEWS = 25
    CLUSTERING_FIT = 30


def generator(seed: int, stream: Stream, *index: int) -> np.random.Generator:
    """A numpy generator for one place of a stream.

    Args:
        seed: The user's seed, not negative.
        stream: What the numbers are for.
        index: Place in the stream: step, slot, epoch ...

    Example:
        >>> first = generator(3, Stream.CASE_ORDER, 0).integers(1000)
        >>> bool(first == generator(3, Stream.CASE_ORDER, 0).integers(1000))
        True
    """
    return np.random.default_rng([seed, int(stream), *index])


def torch_seed(seed: int, stream: Stream, *index: int) -> int:
    """A 63-bit seed for ``torch.manual_seed`` at one place of a stream; see :func:`generator`."""
    state = np.random.SeedSequence([int(stream), seed, *index]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def weights_seed(seed: int, number: int = 0) -> int:
    """Seed of initial weights: the user's own, and the next ones for what is drawn beside them.

    No stream: published figures hang on the weights that the plain seed draws.

    Args:
        seed: The user's seed, not negative.
        number: 0 for the network, 1 for its heads or the second attempt ...
    """
    return seed + number


def case_draw(draw: int) -> np.random.Generator:
    """Numbers that draw labeled cases; the same for every seed, so that draws and seeds cross.

    No stream, for the same reason as :func:`weights_seed`.
    """
    return np.random.default_rng(draw)


def index_of(name: str) -> int:
    """A number for a name (of an image, say), to index a stream with."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")

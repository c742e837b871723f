"""When empty pseudo-labels are told."""

from graphnn_unet.trainers.empty_labels import warning_of_empty_labels


def epochs(*shares, n_steps=200):
    """Rows of epochs; ``None`` for one of pre-training."""
    return [
        {"step": (i + 1) * n_steps, **({} if share is None else {"pseudo_foreground": share})}
        for i, share in enumerate(shares)
    ]


def told_at(rows):
    """Epochs in which a warning is given."""
    return [n for n in range(1, len(rows) + 1) if warning_of_empty_labels(rows[:n])]


def test_it_is_told_once_for_each_stretch():
    assert told_at(epochs(None, 0, 0, 0, 0, 0)) == [4]
    assert told_at(epochs(0, 0, 0.1, 0, 0, 0, 0)) == [6]
    assert told_at(epochs(0, 0, 0, 0.1, 0, 0, 0)) == [3, 7]
    assert told_at(epochs(None, None, None, None)) == []
    assert told_at(epochs(0.1, 0.2, 0.1, 0.1)) == []
    assert told_at(epochs(0, 0, n_steps=900)) == [1]


def test_it_says_for_how_long():
    assert "empty for 600 steps" in warning_of_empty_labels(epochs(None, 0, 0, 0))

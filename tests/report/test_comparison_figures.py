"""Figures of a comparison show the numbers of its scores at the places of their labels."""

import numpy as np
import pytest

from graphnn_unet.benchmarking.tables import Scores
from graphnn_unet.report.comparison_figures import label_efficiency, paired_differences

DICE = {("plain", "10"): 0.6, ("plain", "all"): 0.8, ("plain", "5"): 0.5,
        ("mine", "10"): 0.7, ("mine", "5"): 0.65}  # fmt: skip


def scores():
    """Two draws of seven cases; a later draw is one point better, in the order of a file."""
    return Scores(
        [{"row": row, "labeled": labeled, "draw": str(draw), "seed": "0", "case": f"c{case}",
          "class": "a", "dice": str(dice + 0.01 * draw + 0.001 * case)}
         for (row, labeled), dice in DICE.items() for draw in (0, 1) for case in range(7)],
        {},
    )  # fmt: skip


def lines(axes, marker):
    return [line for line in axes.lines if line.get_marker() == marker]


def test_numbers_of_labels_stand_in_their_order_whatever_the_files_is():
    left, right = label_efficiency(scores(), "plain").axes
    for axes in (left, right):
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["5", "10", "all"]
    plain, mine = lines(left, "D")
    assert np.round(plain.get_xdata()).tolist() == [0, 1, 2]
    np.testing.assert_allclose(plain.get_ydata(), [50.8, 60.8, 80.8])
    np.testing.assert_allclose(mine.get_ydata(), [65.8, 70.8])
    np.testing.assert_allclose(lines(left, ".")[0].get_ydata(), [50.3, 51.3])


def test_differences_are_paired_and_only_where_both_rows_are():
    _, right = label_efficiency(scores(), "plain").axes
    means = [float(line.get_ydata()[0]) for line in lines(right, "D")]
    assert means == pytest.approx([15, 10])  # none for all labels, which one row lacks


def test_without_the_row_to_compare_with_there_is_one_half():
    assert len(label_efficiency(scores(), "another").axes) == 1


def test_paired_differences_have_a_line_a_row():
    (axes,) = paired_differences(scores(), "5", "plain").axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["mine"]
    assert lines(axes, "D")[0].get_xdata()[0] == pytest.approx(15)
    np.testing.assert_allclose(lines(axes, "o")[0].get_xdata(), [15, 15])

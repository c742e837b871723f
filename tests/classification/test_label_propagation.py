import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphnn_unet.classification import label_propagation
from graphnn_unet.classification.label_propagation import (
    build_graph,
    certainty,
    class_weights,
    extend,
    nearest_labeled,
    nodes_among,
    propagate_labels,
    ramp,
)
from graphnn_unet.classification.settings import ClassifySettings
from graphnn_unet.errors import InputError

HALF = ClassifySettings(alpha=0.5)


def sparse(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).to_sparse_csr()


def code(*values: int) -> torch.Tensor:
    return torch.tensor(values).unsqueeze(1)


def random_features(n: int, seed: int = 0, q: int = 8) -> torch.Tensor:
    feature = torch.randn(n, q, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(feature, dim=1)


def test_worked_triangle():
    ones = sparse([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    propagated = propagate_labels(ones, code(0, 1, -1), [2], HALF)
    torch.testing.assert_close(propagated.score[0], torch.tensor([0.75, 0.25]).double())
    assert propagated.score[2].tolist() == pytest.approx([0.5, 0.5], abs=1e-6)
    # the certainty of the graph, before the given labels count as certain
    assert certainty(propagated.score).tolist() == pytest.approx([0.188722, 0.188722, 0], abs=1e-6)
    assert propagated.certainty[:, 0].tolist() == pytest.approx([1, 1, 0], abs=1e-6)


def test_worked_path():
    path = sparse([[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]])
    propagated = propagate_labels(path, code(0, -1, -1, 1), [2], HALF)
    assert propagated.predicted[:, 0].tolist() == [0, 0, 1, 1]
    wanted = [0.771462, 0.235795, 0.235795, 0.771462]
    assert certainty(propagated.score).tolist() == pytest.approx(wanted, abs=1e-6)
    assert float(propagated.score[1, 0]) == pytest.approx(
        0.439978 / (0.439978 + 0.125708), abs=1e-6
    )


def test_findings_with_labels_of_their_own_against_a_dense_solve():
    """Node 3 is out of reach."""
    rows = [[0.0, 2, 1, 0], [2, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    labels = torch.tensor([[0, -1], [1, 2], [-1, 0], [-1, -1]])
    propagated = propagate_labels(sparse(rows), labels, (2, 3), ClassifySettings(alpha=0.8))
    weight = torch.tensor(rows, dtype=torch.float64)
    root = torch.where(weight.sum(1) > 0, weight.sum(1).clamp(min=1e-9).rsqrt(), 0.0)
    system = torch.eye(4).double() - 0.8 * root[:, None] * weight * root[None]
    start = torch.tensor([[1.0, 0, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 1, 0, 0], [0] * 5])
    wanted = torch.linalg.solve(system, start.double())
    for part, ours in zip(
        wanted[:3].split([2, 3], 1), propagated.score[:3].split([2, 3], 1), strict=True
    ):
        torch.testing.assert_close(ours, part / part.sum(1, keepdim=True), atol=1e-7, rtol=0)
    assert propagated.score[3].tolist() == [0] * 5
    assert propagated.figures["not_reached"] == [1, 1]
    assert propagated.predicted[:2].tolist() == [[0, int(wanted[0, 2:].argmax())], [1, 2]]


def test_alpha_0_returns_the_labels():
    graph = build_graph(random_features(20), HALF, [str(i) for i in range(20)])
    labels = torch.full((20, 1), -1)
    labels[:4, 0] = torch.tensor([0, 1, 1, 0])
    propagated = propagate_labels(graph, labels, [2], ClassifySettings(alpha=0.0))
    assert propagated.score.sum(1).tolist() == [1.0] * 4 + [0.0] * 16
    assert propagated.predicted[:4, 0].tolist() == [0, 1, 1, 0]
    assert set(propagated.predicted[4:, 0].tolist()) == {-1}


def test_findings_together_are_those_apart():
    graph = build_graph(random_features(60), ClassifySettings(), [str(i) for i in range(60)])
    generator = torch.Generator().manual_seed(1)
    sizes = [2] * 14
    labels = torch.randint(-1, 2, (60, 14), generator=generator)
    labels[20:] = -1
    together = propagate_labels(graph, labels, sizes, ClassifySettings())
    for finding in range(14):
        alone = propagate_labels(graph, labels[:, finding : finding + 1], [2], ClassifySettings())
        part = together.score[:, 2 * finding : 2 * finding + 2]
        torch.testing.assert_close(part, alone.score, atol=1e-8, rtol=0)


def test_isolated_node_and_unlabeled_component_are_not_reached():
    weight = torch.zeros(6, 6, dtype=torch.float64)
    for i, j in ((0, 1), (1, 2), (3, 4)):
        weight[i, j] = weight[j, i] = 1.0
    propagated = propagate_labels(weight.to_sparse_csr(), code(0, -1, 1, -1, -1, -1), [2], HALF)
    assert propagated.predicted[:, 0].tolist() == [0, 0, 1, -1, -1, -1]  # node 1 is a tie: smallest
    assert propagated.certainty[3:, 0].tolist() == [0, 0, 0]
    assert propagated.figures["not_reached"] == [3]
    assert propagated.figures["ties"] == [1]


def test_isolated_labeled_node_keeps_its_label():
    weight = torch.zeros(3, 3, dtype=torch.float64)
    weight[1, 2] = weight[2, 1] = 1.0
    propagated = propagate_labels(weight.to_sparse_csr(), code(0, 1, -1), [2], HALF)
    assert propagated.score[0].tolist() == [1.0, 0.0]
    assert propagated.predicted[:, 0].tolist() == [0, 1, 1]


def test_given_label_stays_where_the_graph_says_otherwise():
    weight = torch.ones(6, 6, dtype=torch.float64) - torch.eye(6, dtype=torch.float64)
    propagated = propagate_labels(
        weight.to_sparse_csr(), code(0, 0, 0, 0, 1, -1), [2], ClassifySettings()
    )
    assert float(propagated.score[4, 0]) > 0.5
    assert int(propagated.predicted[4, 0]) == 1


def test_contradicting_duplicates_keep_their_labels_and_a_weight_of_2():
    feature = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    graph = build_graph(feature, ClassifySettings(n_neighbors=1), ["a", "b", "c"])
    assert float(graph.to_dense()[0, 1]) == pytest.approx(2.0)
    propagated = propagate_labels(graph, code(0, 1, -1), [2], HALF)
    assert propagated.predicted[:2, 0].tolist() == [0, 1]


def test_prior_keeps_areas_and_moves_decisions():
    graph = build_graph(random_features(50), ClassifySettings(), [str(i) for i in range(50)])
    labels = torch.full((50, 1), -1)
    labels[:12, 0] = torch.tensor([0] * 10 + [1] * 2)
    plain, balanced = (
        propagate_labels(graph, labels, [2], ClassifySettings(prior=prior, alpha=0.99))
        for prior in (False, True)
    )
    odds = [s.score[12:, 1] / s.score[12:, 0] for s in (plain, balanced)]
    torch.testing.assert_close(odds[1] / odds[0], torch.full((38,), 5.0).double())
    assert int((plain.predicted == 1).sum()) < int((balanced.predicted == 1).sum())


def test_solver_that_stops_early_says_so(monkeypatch):
    monkeypatch.setattr(label_propagation, "MAX_ITERATIONS", 1)
    graph = build_graph(random_features(50), ClassifySettings(), [str(i) for i in range(50)])
    labels = torch.full((50, 1), -1)
    labels[:2, 0] = torch.tensor([0, 1])
    figures = propagate_labels(graph, labels, [2], ClassifySettings()).figures
    assert figures["converged"] is False
    assert figures["residual"] > label_propagation.TOLERANCE


def test_feature_that_is_not_finite_is_refused_with_the_image():
    feature = random_features(5)
    feature[3, 0] = math.nan
    with pytest.raises(InputError, match="scan_3"):
        build_graph(feature, ClassifySettings(), [f"scan_{i}" for i in range(5)])


def test_one_image_is_refused_and_few_take_all_as_neighbors():
    with pytest.raises(InputError, match="one image"):
        build_graph(random_features(1), ClassifySettings(), ["a"])
    feature = torch.rand(4, 3) + 0.1
    graph = build_graph(feature, ClassifySettings(n_neighbors=50), list("abcd"))
    assert int((graph.to_dense() > 0).sum()) == 12


def test_zero_feature_row_has_no_neighbors():
    feature = torch.cat([torch.rand(5, 3) + 0.1, torch.zeros(1, 3)])
    graph = build_graph(feature, ClassifySettings(), list("abcdef"))
    assert float(graph.to_dense()[5].sum()) == 0


def test_certainty_of_sure_equal_and_empty_rows():
    rows = torch.tensor([[1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0, 0, 0]]).double()
    assert certainty(rows).tolist() == pytest.approx([1, 0, 0], abs=1e-12)
    with pytest.raises(InputError, match="one class"):
        certainty(torch.ones(2, 1))


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.permutations(range(3)))
def test_certainty_does_not_depend_on_the_order_of_classes(values, order):
    row = torch.tensor([values], dtype=torch.float64)
    row = row / row.sum().clamp(min=1e-12)
    assert float(certainty(row[:, list(order)])) == pytest.approx(float(certainty(row)), abs=1e-9)
    assert 0 <= float(certainty(row)) <= 1


def test_class_weights_balance_and_leave_empty_classes_out():
    weight = class_weights(torch.tensor([0, 0, 0, 1, -1, -1]), 3)
    assert weight.tolist() == pytest.approx([4 / 9, 4 / 3, 0])
    many = class_weights(torch.tensor([0] * 1000 + [1]), 2)
    assert many.tolist() == pytest.approx([1001 / 2000, 10.0])


def test_ramp_begins_small_and_ends_at_its_largest():
    settings = ClassifySettings(rounds=30, a_max=0.7)
    assert ramp(0, settings) == pytest.approx(0.7 * math.exp(-5))
    assert ramp(15, settings) == ramp(30, settings) == pytest.approx(0.7)
    assert ramp(5, settings) < ramp(10, settings)
    assert ramp(20, ClassifySettings(a_max=0.0)) == 0.0


def test_stored_node_gets_a_mixture_of_its_neighbors_scores():
    feature = random_features(30).abs()
    feature = torch.nn.functional.normalize(feature, dim=1)
    score = torch.rand(30, 2, generator=torch.Generator().manual_seed(3)).double()
    score = score / score.sum(1, keepdim=True)
    settings = ClassifySettings(n_neighbors=5, gamma=3.0)
    propagated, near = extend(feature[:7], feature, score, [2], settings)
    assert near.all()
    cosine = feature[:7] @ feature.T
    for row in range(7):
        index = cosine[row].topk(5).indices
        weight = cosine[row, index].double() ** 3
        wanted = (weight[:, None] * score[index]).sum(0) / weight.sum()
        torch.testing.assert_close(propagated[row], wanted, atol=1e-6, rtol=0)
        assert score[index].min(0).values.le(propagated[row] + 1e-9).all()


def test_far_node_is_told_apart():
    stored = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    score = torch.eye(2, dtype=torch.float64)
    propagated, near = extend(torch.tensor([[0, 0, 1.0], [-1, 0, 0]]), stored, score, [2], HALF)
    assert near.tolist() == [False, False]
    assert float(propagated.abs().sum()) == 0


def test_nearest_labeled_images_leave_out_the_image_itself():
    feature = torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1]])
    near = nearest_labeled(feature, feature, code(0, -1, 1), "abc", own_row=torch.arange(3))
    assert [[name for name, _ in pairs] for pairs in near] == [["c"], ["a", "c"], ["a"]]
    assert [value for _, value in near[1]] == pytest.approx([0.8, 0.6])
    others = nearest_labeled(feature[:1], feature, code(0, -1, 1), "abc")
    assert [name for name, _ in others[0]] == ["a", "c"]


def test_five_labeled_images_are_named_at_most_in_every_block(monkeypatch):
    feature = random_features(40)
    whole = nearest_labeled(feature, feature, code(*[0] * 20, *[-1] * 20), range(40))
    assert {len(pairs) for pairs in whole} == {5}
    assert all(name < 20 for pairs in whole for name, _ in pairs)
    monkeypatch.setattr(label_propagation, "_BLOCK", 7)
    parts = nearest_labeled(feature, feature, code(*[0] * 20, *[-1] * 20), range(40))
    assert [[n for n, _ in pairs] for pairs in parts] == [[n for n, _ in pairs] for pairs in whole]


@pytest.mark.slow
def test_20000_nodes_take_less_than_a_minute_and_a_gibibyte():
    import resource
    import time

    feature = random_features(20_000, q=64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    graph = build_graph(feature, ClassifySettings(), [])
    labels = torch.full((20_000, 1), -1)
    labels[:4000, 0] = (feature[:4000, 0] > 0).long()
    assert propagate_labels(graph, labels, [2], ClassifySettings()).figures["converged"]
    assert time.monotonic() - started < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB


def test_nodes_of_the_graph_are_known_by_id_and_by_features():
    generator = torch.Generator().manual_seed(0)
    stored = torch.nn.functional.normalize(torch.randn(900, 300, generator=generator), dim=1)
    noise = 1e-5 * torch.randn(300, generator=generator) / 300**0.5
    near = torch.nn.functional.normalize(stored[7] + 100 * noise, dim=0)  # cosine 1 - 5e-7
    apart = torch.nn.functional.normalize(stored[7] + 300 * noise, dim=0)  # cosine 1 - 4.5e-6
    feature = torch.stack([stored[5], stored[6] * (1 + 1e-7), near, apart, torch.zeros(300)])
    cases = [f"n{row}" for row in range(900)]
    by_id, by_feature = nodes_among(feature, ["n5", "a", "b", "c", "n8"], stored, cases)
    assert by_id.tolist() == [True, False, False, False, True]
    assert by_feature.tolist() == [True, True, True, False, False]

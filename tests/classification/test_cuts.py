import pytest
import torch

from graphnn_unet.classification import label_propagation
from graphnn_unet.classification.cuts import class_sets
from graphnn_unet.classification.label_propagation import propagate_labels
from graphnn_unet.classification.settings import ClassifySettings

TV = ClassifySettings(p=1)
RATIO = ClassifySettings(p=1, variation="ratio")


def clusters(separation: float, n: int = 200, n_labels: int = 3):
    """Two Gaussian clusters with ten neighbors a point; the labels are its first points."""
    generator = torch.Generator().manual_seed(0)
    side = (torch.arange(n) >= n // 2).long()
    point = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    point[:, 0] += torch.where(side > 0, separation, -separation)
    distance = torch.cdist(point, point)
    distance.fill_diagonal_(torch.inf)
    near = distance.topk(10, largest=False)
    weight = torch.zeros(n, n, dtype=torch.float64)
    weight.scatter_(1, near.indices, torch.exp(-near.values.square()))
    code = torch.full((n, 1), -1)
    code[:n_labels], code[n // 2 : n // 2 + n_labels] = 0, 1
    return (weight + weight.T).to_sparse_csr(), code, side


def right(propagated, side) -> float:
    return float((propagated.predicted[:, 0] == side).double().mean())


def test_tv_serves_clear_clusters():
    graph, code, side = clusters(3.5)
    propagated = propagate_labels(graph, code, [2], TV)
    assert propagated.figures["cuts"][0]["method"] == "tv"
    assert right(propagated, side) > 0.97


def test_tv_that_collapses_gives_way_to_ratio_and_says_so():
    graph, code, side = clusters(1.5, n=600)
    propagated = propagate_labels(graph, code, [2], TV)
    used = propagated.figures["cuts"][0]
    assert used["method"] == "ratio"
    assert used["tv_collapsed"]
    assert right(propagated, side) > 0.9


def test_ratio_reports_the_spread_over_its_starts():
    graph, code, _ = clusters(2.0)
    used = propagate_labels(graph, code, [2], RATIO).figures["cuts"][0]
    assert used["method"] == "ratio"
    assert used["ratio_worst_start"][0] >= used["ratio_quotient"][0]


def test_three_classes_take_one_cut_each():
    generator = torch.Generator().manual_seed(1)
    side = torch.arange(90) // 30
    point = torch.randn(90, 2, generator=generator, dtype=torch.float64)
    point += 5 * torch.tensor([[0, 0], [2, 0], [0, 2.0]]).double()[side]
    weight = torch.exp(-torch.cdist(point, point).square())
    weight.fill_diagonal_(0)
    code = torch.full((90, 1), -1)
    for class_index in range(3):
        code[30 * class_index : 30 * class_index + 3] = class_index
    propagated = propagate_labels(weight.to_sparse_csr(), code, [3], TV)
    assert len(propagated.figures["cuts"][0]["tv_gap"]) == 3
    assert right(propagated, side) > 0.95


def test_node_without_edges_is_left_out_of_the_cuts():
    graph, code, side = clusters(3.5)
    n = len(side)
    larger = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    larger[:n, :n] = graph.to_dense()
    code = torch.cat([code, torch.tensor([[-1]])])
    propagated = propagate_labels(larger.to_sparse_csr(), code, [2], TV)
    assert int(propagated.predicted[-1, 0]) == -1
    assert float(propagated.score[-1].sum()) == 0
    assert right(propagated, torch.cat([side, torch.tensor([-1])])) > 0.97


def test_class_whose_labels_all_lie_off_the_graph_is_never_cut_out():
    graph, code, side = clusters(3.5)
    n = len(side)
    larger = torch.zeros(n + 2, n + 2, dtype=torch.float64)
    larger[:n, :n] = graph.to_dense()
    code = torch.cat([code, torch.tensor([[2], [2]])])
    propagated = propagate_labels(larger.to_sparse_csr(), code, [3], RATIO)
    assert set(propagated.predicted[:n, 0].tolist()) == {0, 1}
    assert propagated.predicted[n:, 0].tolist() == [2, 2]


def test_ties_of_the_cuts_are_broken_by_the_quadratic_scores(monkeypatch):
    graph, code, _ = clusters(3.5, n=40)
    quadratic = propagate_labels(graph, code, [2], ClassifySettings()).score
    indicator = torch.zeros(40, 2).double()
    indicator[:20, 1] = 1  # against the quadratic scores
    indicator[20:30] = 1  # in both cuts; the last ten are in none
    sets = indicator, {"method": "tv"}
    monkeypatch.setattr(label_propagation, "class_sets", lambda *_, **__: sets)
    propagated = propagate_labels(graph, code, [2], TV)
    without_label = code[:, 0] < 0
    assert set(propagated.predicted[:20, 0][without_label[:20]].tolist()) == {1}
    wanted = quadratic[20:].argmax(dim=1)
    assert torch.equal(propagated.predicted[20:, 0], wanted)


def test_two_classes_take_one_cut_whose_sides_are_each_others_rest():
    graph, code, _ = clusters(3.5)
    score = torch.full((200, 2), 0.5).double()
    indicator, figures = class_sets(graph, code[:, 0], 2, score, TV, thorough=False)
    torch.testing.assert_close(indicator.sum(1), torch.ones(200).double())
    assert len(figures["tv_gap"]) == 1
    assert figures["tv_gap"][0] == pytest.approx(0, abs=1e-4)

"""Alternating correction on two graphs: worked examples, laws, the toy with flipped labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.graph import (
    CorrectionSettings,
    LearnedStep,
    VoteStep,
    class_graph_propagate,
    class_thresholds,
    correct_labels,
    is_confident,
    semantic_propagate,
)

FOUR = torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1], [-1, 0]], dtype=torch.float64)[None]
SHARES = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.5, 0.5]], dtype=torch.float64)[None]
NEAREST = CorrectionSettings(n_neighbors=1)


def matrix(embedding: torch.Tensor, settings: CorrectionSettings) -> torch.Tensor:
    """The operator of the semantic graph, written out: ``(n, n)``."""
    eye = torch.eye(embedding.shape[1], dtype=embedding.dtype)[None]
    return semantic_propagate(embedding, eye, settings)[0]


def random_graphs(b: int = 1, n: int = 30, c: int = 4, e: int = 6, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    share = torch.randn(b, n, c, generator=generator, dtype=torch.float64).softmax(-1)
    embedding = torch.randn(b, n, e, generator=generator, dtype=torch.float64)
    return share, embedding, torch.rand(b, n, generator=generator) > 0.5


# ------------------------------------------------------------------ the semantic-level graph


def test_hand_worked_semantic_graph():
    operator = matrix(FOUR, NEAREST)
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[0, 1] = expected[1, 0] = 0.852803
    expected[1, 2] = expected[2, 1] = 0.522233
    torch.testing.assert_close(operator, expected, atol=1e-6, rtol=0)
    eigenvalues = torch.linalg.eigvalsh(operator)
    torch.testing.assert_close(eigenvalues, torch.tensor([-1.0, 0, 0, 1]).double(), atol=1e-12,
                               rtol=0)  # fmt: skip


@pytest.mark.parametrize("trained", [False, True])
def test_spectral_radius_is_at_most_one(trained):
    """The printed degree would give up to 1.17."""
    settings = CorrectionSettings(n_neighbors=3, detach_graph=not trained)
    largest = []
    for seed in range(50):
        embedding = random_graphs(n=30, e=3, seed=seed)[1]
        operator = matrix(embedding, settings)
        torch.testing.assert_close(operator, operator.T, atol=1e-15, rtol=1e-12)
        assert operator.min() >= 0
        assert not operator.diagonal().any()
        largest.append(float(torch.linalg.eigvalsh(operator).abs().max()))
    assert max(largest) <= 1 + 1e-9
    assert max(largest) > 0.999


def test_weights_with_gradient_are_those_of_the_constant_graph():
    share, embedding, _ = random_graphs(2, 40)
    for k in (1, 5, 39, 100):
        for gamma in (1.0, 2.0):
            fixed = CorrectionSettings(k, gamma)
            trained = CorrectionSettings(k, gamma, detach_graph=False)
            torch.testing.assert_close(
                semantic_propagate(embedding, share, fixed),
                semantic_propagate(embedding, share, trained),
                atol=1e-12, rtol=1e-12,
            )  # fmt: skip


def test_gradient_through_the_weights_is_that_of_the_dense_definition():
    share, embedding, _ = random_graphs(1, 12)
    embedding.requires_grad_()
    settings = CorrectionSettings(3, detach_graph=False)
    unit = torch.nn.functional.normalize(embedding[0], dim=1)
    cosine = unit @ unit.T - 2 * torch.eye(12)
    directed = torch.zeros_like(cosine).scatter(1, cosine.topk(3).indices, 1.0) * cosine.clamp(
        min=0
    )
    both = directed + directed.T
    root = both.sum(1).rsqrt()
    expected = (root[:, None] * both * root) @ share[0]
    value = semantic_propagate(embedding, share, settings)[0]
    torch.testing.assert_close(value, expected)
    weight = torch.randn(12, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ours, theirs = (torch.autograd.grad((v * weight).sum(), embedding)[0]
                    for v in (value, expected))  # fmt: skip
    torch.testing.assert_close(ours, theirs)


def test_complete_and_empty_graphs():
    share, embedding, _ = random_graphs(1, 10)
    unit = torch.nn.functional.normalize(embedding[0].abs(), dim=1)
    weight = 2 * (unit @ unit.T)
    weight.fill_diagonal_(0)
    root = weight.sum(1).rsqrt()
    operator = matrix(embedding.abs(), CorrectionSettings(n_neighbors=99))
    torch.testing.assert_close(operator, root[:, None] * weight * root)
    assert not semantic_propagate(embedding, share, CorrectionSettings(n_neighbors=0)).any()
    assert not semantic_propagate(embedding[:, :1], share[:, :1]).any()


# --------------------------------------------------------------------- the class-level graph


def test_hand_worked_class_graph():
    eye = torch.eye(4, dtype=torch.float64)[None]
    operator = class_graph_propagate(SHARES, eye)[0]
    expected = {(0, 0): 0.446429, (0, 1): 0.330357, (0, 3): 0.236228, (1, 3): 0.236228,
                (3, 3): 0.5, (2, 2): 1.0, (0, 2): 0.0, (2, 3): 0.0}  # fmt: skip
    for place, value in expected.items():
        assert operator[place] == pytest.approx(value, abs=1e-6)


def test_linear_class_graph_is_the_dense_one():
    share, signal, _ = random_graphs(2, 300, 5, 7)
    label = share.argmax(-1)
    same = label[..., :, None] == label[..., None, :]
    weight = torch.where(same, share @ share.transpose(1, 2), 0.0)
    weight.diagonal(dim1=1, dim2=2).fill_(1.0)
    root = weight.sum(-1).rsqrt()
    operator = root[..., None] * weight * root[..., None, :]
    torch.testing.assert_close(
        class_graph_propagate(share, signal), operator @ signal, atol=1e-12, rtol=1e-12
    )
    degree_root = weight.sum(-1, keepdim=True).sqrt()
    torch.testing.assert_close(class_graph_propagate(share, degree_root), degree_root)


# ------------------------------------------------------------------------------- a single step


def test_hand_worked_vote_step():
    message = semantic_propagate(FOUR, SHARES, NEAREST)[0]
    torch.testing.assert_close(
        message,
        torch.tensor([[0.682242, 0.170561], [0.924192, 0.450843], [0.417786, 0.104447], [0, 0]],
                     dtype=torch.float64),
        atol=1e-6, rtol=0,
    )  # fmt: skip
    confident = is_confident(SHARES, torch.tensor([0.85, 0.95], dtype=torch.float64))
    assert confident.tolist() == [[True, False, False, False]]
    (state,) = correct_labels(SHARES, FOUR, confident, [VoteStep()], NEAREST)
    torch.testing.assert_close(
        state.probability[0],
        torch.tensor([[0.88, 0.12], [0.697698, 0.302302], [0.7, 0.3], [0.5, 0.5]],
                     dtype=torch.float64),
        atol=1e-6, rtol=0,
    )  # fmt: skip


class Fixed(VoteStep):
    """Votes the same for every node."""

    def label(self, state, message):
        return torch.tensor([0.1, 0.9], dtype=state.dtype).expand_as(state)


@pytest.mark.parametrize(
    ("alpha", "confident", "expected"),
    [(0.2, True, 0.5), (0.2, False, 0.2), (0.8, True, 0.2), (0.8, False, 0.5)],
)
def test_alpha_is_what_a_confident_node_takes(alpha, confident, expected):
    share = torch.tensor([[0.6, 0.4]] * 2, dtype=torch.float64)[None]
    sure = torch.full((1, 2), confident)
    settings = CorrectionSettings(alpha=alpha)
    (state,) = correct_labels(share, FOUR[:, :2], sure, [Fixed()], settings)
    target = torch.tensor([expected, 1 - expected], dtype=torch.float64)
    torch.testing.assert_close(state.probability[0, 0], target)


def test_published_shares_are_the_default():
    settings = CorrectionSettings()
    assert (settings.alpha, settings.n_neighbors, settings.gamma) == (0.2, 20, 1.0)
    assert settings.detach_graph


class Recording(VoteStep):
    def __init__(self):
        self.calls: list[tuple[str, torch.Tensor, torch.Tensor]] = []

    def label(self, state, message):
        self.calls.append(("label", state, message))
        return super().label(state, message)

    def embedding(self, state, message):
        self.calls.append(("embedding", state, message))
        return super().embedding(state, message)


def test_classes_are_corrected_first_and_the_class_graph_is_that_of_the_new_ones():
    share, embedding, sure = random_graphs()
    steps = [Recording(), Recording()]
    settings = CorrectionSettings(n_neighbors=4)
    first, second = correct_labels(share, embedding, sure, steps, settings)
    before = [(share, embedding), (first.probability, first.embedding)]
    for step, (old_share, old_rows), after in zip(steps, before, (first, second), strict=True):
        assert [name for name, *_ in step.calls] == ["label", "embedding"]
        (_, state, message), (_, rows, smooth) = step.calls
        assert torch.equal(state, old_share)
        assert torch.equal(message, semantic_propagate(old_rows, old_share, settings))
        assert torch.equal(rows, old_rows)
        assert torch.equal(smooth, class_graph_propagate(after.probability, old_rows))
        assert not torch.equal(smooth, class_graph_propagate(old_share, old_rows))


# ---------------------------------------------------------------------------------------- laws


STEPS = {
    "vote": lambda: [VoteStep(), VoteStep()],
    "learned": lambda: [LearnedStep(4, 6).double(), LearnedStep(4, 6).double()],
}


@pytest.mark.parametrize("kind", STEPS)
def test_probabilities_stay_probabilities_and_embeddings_unit_rows(kind):
    share, embedding, sure = random_graphs(2)
    for state in correct_labels(share, embedding, sure, STEPS[kind](), CorrectionSettings(5)):
        assert state.probability.min() >= 0
        for total in (state.probability.sum(-1), state.embedding.norm(dim=-1)):
            torch.testing.assert_close(total, torch.ones(2, 30, dtype=torch.float64))


@pytest.mark.parametrize("kind", STEPS)
def test_images_do_not_see_each_other(kind):
    share, embedding, sure = random_graphs(3)
    steps, settings = STEPS[kind](), CorrectionSettings(5)
    together = correct_labels(share, embedding, sure, steps, settings)
    for image in range(3):
        part = slice(image, image + 1)
        alone = correct_labels(share[part], embedding[part], sure[part], steps, settings)
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a.probability[part], b.probability, atol=1e-6, rtol=0)
            torch.testing.assert_close(a.embedding[part], b.embedding, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", STEPS)
def test_order_of_nodes_and_length_of_embeddings_change_nothing(kind):
    share, embedding, sure = random_graphs()
    steps, settings = STEPS[kind](), CorrectionSettings(5)
    plain = correct_labels(share, embedding, sure, steps, settings)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(4))
    moved = correct_labels(share[:, order], embedding[:, order], sure[:, order], steps, settings)
    scale = torch.rand(1, 30, 1, generator=torch.Generator().manual_seed(5)).double() + 0.1
    operator, scaled = (matrix(rows, settings) for rows in (embedding, scale * embedding))
    torch.testing.assert_close(operator, scaled)
    for a, b in zip(plain, moved, strict=True):
        torch.testing.assert_close(a.probability[:, order], b.probability)
        torch.testing.assert_close(a.embedding[:, order], b.embedding)


def test_names_of_classes_change_nothing():
    share, embedding, sure = random_graphs()
    order = torch.tensor([2, 0, 3, 1])
    settings = CorrectionSettings(5)
    plain = correct_labels(share, embedding, sure, STEPS["vote"](), settings)
    renamed = correct_labels(share[..., order], embedding, sure, STEPS["vote"](), settings)
    for a, b in zip(plain, renamed, strict=True):
        torch.testing.assert_close(a.probability[..., order], b.probability)
        torch.testing.assert_close(a.embedding, b.embedding)


def test_equal_neighbors_leave_a_vote_as_it_is():
    _, embedding, sure = random_graphs()
    share = torch.tensor([0.5, 0.3, 0.1, 0.1], dtype=torch.float64).expand(1, 30, 4)
    for state in correct_labels(share, embedding, sure, STEPS["vote"](), CorrectionSettings(5)):
        torch.testing.assert_close(state.probability, share)


@pytest.mark.parametrize("kind", STEPS)
def test_no_neighbors_leave_the_classes_as_they_are(kind):
    share, embedding, sure = random_graphs()
    for state in correct_labels(share, embedding, sure, STEPS[kind](), CorrectionSettings(0)):
        assert torch.equal(state.probability, share)


class Unchanged(VoteStep):
    def label(self, state, message):
        return state


def test_a_vote_for_what_is_there_changes_no_bit():
    share, embedding, sure = random_graphs()
    share, embedding = share.float(), embedding.float()
    for state in correct_labels(share, embedding, sure, [Unchanged(), Unchanged()]):
        assert torch.equal(state.probability, share)


# ----------------------------------------------------------------------------- flipped labels


class Toy:
    """400 nodes in four clusters, 40 of them with a wrong label."""

    def __init__(self, flipped_share: float = 0.6, noise: float = 0.15):
        random = np.random.RandomState(0)
        self.truth = np.arange(400) % 4
        self.embedding = np.eye(16)[:4][self.truth] + noise * random.randn(400, 16)
        self.flipped = random.permutation(400)[:40]
        given = self.truth.copy()
        given[self.flipped] = (given[self.flipped] + 1 + random.randint(0, 3, 40)) % 4
        largest = np.full(400, 0.97)
        largest[self.flipped] = flipped_share
        self.probability = np.repeat(((1 - largest) / 3)[:, None], 4, axis=1)
        self.probability[np.arange(400), given] = largest

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(self.probability)[None], torch.from_numpy(self.embedding)[None]

    def run(self, steps=None, settings=None, *, embedding=None, swapped=False):
        """Flipped nodes restored, clean nodes broken."""
        share, rows = self.inputs()
        rows = rows if embedding is None else torch.from_numpy(embedding)[None]
        sure = is_confident(share, class_thresholds(share))
        steps = [VoteStep(), VoteStep()] if steps is None else steps
        states = correct_labels(share, rows, ~sure if swapped else sure, steps, settings)
        label = sum(state.probability for state in states).argmax(-1)[0].numpy()
        right = label == self.truth
        clean = np.ones(400, bool)
        clean[self.flipped] = False
        return int(right[self.flipped].sum()), int((~right[clean]).sum())


def test_the_toy_is_the_specified_one():
    toy = Toy()
    np.testing.assert_allclose(toy.embedding[0, :3], [1.264608, 0.060024, 0.146811], atol=1e-6)
    assert toy.flipped[:5].tolist() == [163, 214, 33, 31, 370]
    share, _ = toy.inputs()
    threshold = class_thresholds(share)
    np.testing.assert_allclose(threshold, [0.919681, 0.95, 0.899468, 0.869149], atol=1e-6)
    sure = is_confident(share, threshold)[0]
    assert not sure[toy.flipped].any()
    assert sure.sum() == 360


@pytest.mark.parametrize(
    ("n_neighbors", "noise"), [(5, 0.15), (20, 0.15), (399, 0.15), (20, 0.3), (20, 0.4)]
)
@pytest.mark.parametrize(
    "steps",
    [
        [VoteStep()],
        [VoteStep(), VoteStep()],
        [LearnedStep(4, 16).double(), LearnedStep(4, 16).double()],
    ],
    ids=["one pass", "vote", "learned"],
)
def test_flipped_labels_are_restored_and_clean_ones_kept(steps, n_neighbors, noise):
    restored, broken = Toy(noise=noise).run(steps, CorrectionSettings(n_neighbors))
    assert restored >= 38
    assert broken <= 3
    if noise == 0.15:
        assert (restored, broken) == (40, 0)


def test_first_flipped_node_goes_the_way_that_was_worked_out():
    toy = Toy()
    share, rows = toy.inputs()
    step = Recording()
    sure = is_confident(share, class_thresholds(share))
    (state,) = correct_labels(share, rows, sure, [step], None)
    message = step.calls[0][2][0, 163]
    np.testing.assert_allclose(message / message.sum(), [0.0326, 0.0326, 0.1181, 0.8167], atol=5e-5)
    np.testing.assert_allclose(state.probability[0, 163], [0.1461, 0.0527, 0.1212, 0.68], atol=5e-5)


def test_negative_controls_restore_nothing(monkeypatch):
    toy = Toy()
    assert toy.run(settings=CorrectionSettings(alpha=0.8))[0] == 0
    assert toy.run(swapped=True)[0] == 0
    assert toy.run(settings=CorrectionSettings(0))[0] == 0
    random = np.random.RandomState(1).randn(400, 16)
    assert toy.run(embedding=random)[0] == 11
    from graphnn_unet.graph import label_correction

    monkeypatch.setattr(
        label_correction, "semantic_propagate",
        lambda _rows, share, _settings: class_graph_propagate(share, share),
    )  # fmt: skip
    assert toy.run()[0] == 0  # the class-level graph cannot correct classes


def test_wrong_labels_above_the_threshold_survive():
    toy = Toy(flipped_share=0.97)
    assert toy.run()[0] == 0
    assert toy.run(settings=CorrectionSettings(alpha=0.8))[0] == 40


# ------------------------------------------------------------------------ numbers and gradients


def degenerate(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    share, embedding, _ = random_graphs(1, 12)
    share, embedding = share.float(), embedding.float()
    if kind == "one node":
        return share[:, :1], embedding[:, :1]
    if kind == "one class":
        return torch.tensor([1.0, 0, 0, 0]).expand(1, 12, 4).clone(), embedding
    if kind == "constant features":
        return share, torch.ones_like(embedding)
    if kind == "zero row":
        embedding[0, 3] = 0
    if kind == "negative cosines":
        embedding = torch.cat([torch.eye(6), -torch.eye(6)])[None][:, [0, 6]]
        share = share[:, :2]
    if kind == "uniform":
        share = torch.full_like(share, 0.25)
    return share, embedding


@pytest.mark.parametrize("detach_graph", [True, False])
@pytest.mark.parametrize(
    "kind",
    ["one node", "one class", "constant features", "zero row", "negative cosines", "uniform"],
)
def test_degenerate_graphs_give_finite_values_and_gradients(kind, detach_graph):
    share, embedding = degenerate(kind)
    share.requires_grad_()
    embedding.requires_grad_()
    sure = torch.zeros(share.shape[:2], dtype=torch.bool)
    for steps in ([VoteStep()] * 2, [LearnedStep(4, 6), LearnedStep(4, 6)]):
        settings = CorrectionSettings(5, detach_graph=detach_graph)
        states = correct_labels(share, embedding, sure, steps, settings)
        total = sum((s.probability.square().sum() + s.embedding.cumsum(-1).sum()) for s in states)
        gradients = torch.autograd.grad(total, (share, embedding))
        assert torch.isfinite(total)
        assert all(torch.isfinite(g).all() for g in gradients)


def test_a_node_that_is_not_finite_has_no_link():
    _, embedding, _ = random_graphs(1, 12)
    embedding[0, 2, 1] = torch.inf
    operator = matrix(embedding, CorrectionSettings(5))
    assert torch.isfinite(operator).all()
    assert not operator[2].any()


def test_autocast_leaves_the_graphs_in_full_precision():
    share, embedding, sure = random_graphs(1, 20)
    share, embedding = share.float(), (300 * embedding).float()
    steps = [LearnedStep(4, 6)]
    (plain,) = correct_labels(share, embedding, sure, steps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (inside,) = correct_labels(share, embedding, sure, steps)
        (narrow,) = correct_labels(share.half(), embedding.half(), sure, steps)
    assert inside.probability.dtype == inside.embedding.dtype == torch.float32
    assert narrow.probability.dtype == torch.float32
    assert torch.equal(plain.probability, inside.probability)
    assert torch.equal(plain.embedding, inside.embedding)


def test_constant_graphs_still_carry_gradient_of_what_travels():
    share, embedding, sure = random_graphs()
    for leaf in (share, embedding):
        leaf.requires_grad_()
    for detach in (True, False):
        settings = CorrectionSettings(5, detach_graph=detach)
        (state,) = correct_labels(share, embedding, sure, [VoteStep()], settings)
        through = torch.autograd.grad(
            state.probability[..., 0].sum(), (share, embedding), allow_unused=True
        )
        assert through[0].abs().max() > 0
        # classes depend on embeddings through the weights of the graph alone
        assert (through[1] is None) == detach


@pytest.mark.parametrize(
    "wrong", [{"n_neighbors": -1}, {"alpha": 1.5}, {"alpha": -0.1}, {"gamma": 0}, {"gamma": -1}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(InputError):
        CorrectionSettings(**wrong)


def test_inputs_that_do_not_fit_are_refused():
    share, embedding, sure = random_graphs()
    for arguments in ((share[0], embedding, sure), (share, embedding, sure[:, 1:]),
                      (share, embedding[:, 1:], sure)):  # fmt: skip
        with pytest.raises(ShapeError):
            correct_labels(*arguments, [VoteStep()])

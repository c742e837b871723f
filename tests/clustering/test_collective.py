"""The collective schedule: what is shared, in which order, and what is kept in the folder."""

import pytest
import torch
from pictures import blob, save

from graphnn_unet.clustering.collective import WEIGHTS, shared_weights, train_together
from graphnn_unet.clustering.features import BorderFeatures
from graphnn_unet.clustering.fit import fit_graph, make_graph, make_network
from graphnn_unet.clustering.images import find_images
from graphnn_unet.clustering.settings import make_settings
from graphnn_unet.errors import InputError


def rows(seed: int = 0, n_channels: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(30, n_channels, generator=generator)


def test_no_shared_passes_are_the_plain_method_and_shared_weights_change_it():
    feature = rows()
    images = [("a", feature), ("b", feature * 2 + 1)]
    settings = make_settings("deepcut", steps=3)

    def graph_of(rows):
        return make_graph(rows, settings)

    assert train_together(images, graph_of, settings) is None
    start = make_network(8, settings).state_dict()
    plain = fit_graph(graph_of(feature), settings, "a")
    same = fit_graph(graph_of(feature), settings, "a", start)
    assert torch.equal(plain.assignment, same.assignment)
    together = make_settings("deepcut", steps=3, shared_steps=3)
    shared = train_together(images, graph_of, together)
    assert any(not torch.equal(shared[name], start[name]) for name in start)
    backwards = train_together(images[::-1], graph_of, together)
    assert all(torch.equal(shared[name], backwards[name]) for name in shared)
    after = fit_graph(graph_of(feature), together, "a", shared)
    assert not torch.equal(after.assignment, plain.assignment)


def test_every_pass_visits_all_images_in_an_order_of_its_own():
    settings = make_settings("deepcut", shared_steps=4)

    def visits(seed: int) -> list[list[str]]:
        seen: list[str] = []

        def graph_of(name: str):
            seen.append(name)
            return make_graph(rows(), settings)

        shared_settings = make_settings("deepcut", shared_steps=4, seed=seed)
        train_together([(name, name) for name in "abcdef"], graph_of, shared_settings)
        return [seen[start : start + 6] for start in range(0, 24, 6)]

    passes = visits(0)
    assert all(sorted(order) == list("abcdef") for order in passes)
    assert len({tuple(order) for order in passes}) > 1
    assert passes == visits(0)
    assert passes != visits(1)


def test_images_of_another_kind_are_refused():
    settings = make_settings("deepcut", shared_steps=1)
    images = [("a", rows()), ("b", rows(n_channels=5))]
    with pytest.raises(InputError, match="shared weights need images of one kind"):
        train_together(images, lambda values: make_graph(values, settings), settings)


def test_weights_are_taken_from_the_folder_while_nothing_changed(tmp_path):
    for seed in range(2):
        save(tmp_path / "in" / f"{seed}.bmp", blob(seed=seed)[0])
    sources, *_ = find_images(tmp_path / "in")
    features = BorderFeatures(40, 8)
    (tmp_path / "out").mkdir()

    def written(**changes) -> int:
        settings = make_settings("deepcut", shared_steps=1, **changes)
        assert shared_weights(sources, features, settings, tmp_path / "out") is not None
        return (tmp_path / "out" / WEIGHTS).stat().st_mtime_ns

    first = written()
    assert written() == first
    assert written(seed=1) != first
    (tmp_path / "out" / WEIGHTS).write_bytes(b"damaged")
    second = written(seed=1)
    assert second != first
    # another image of the same name and size
    path = tmp_path / "in" / "1.bmp"
    assert path.stat().st_size == save(path, blob(seed=9)[0]).stat().st_size
    assert written(seed=1) != second
    assert shared_weights(sources, features, make_settings("deepcut"), tmp_path / "out") is None

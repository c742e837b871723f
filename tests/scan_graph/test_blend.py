"""The network's answer and the vote, mixed where there is a vote."""

import numpy as np
import torch

from graphnn_unet.scan_graph.blend import blended_logits

SHAPE = (3, 4, 5, 6)


def network_and_vote() -> tuple[torch.Tensor, np.ndarray]:
    """Logits in half precision; votes in half of the space, whole ones among them."""
    logits = 5 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    share = np.random.default_rng(0).dirichlet([0.3] * 3, SHAPE[1:]).astype(np.float32)
    share = np.moveaxis(share, -1, 0).copy()
    share[:, 0, 0, 0] = (0, 1, 0)
    share[:, 2:] = 0
    return logits.half(), share


def test_the_softmax_is_the_blend():
    logits, share = network_and_vote()
    network = logits.float().softmax(0).numpy()
    for amount in (0.3, 0.5, 1.0):
        p = blended_logits(logits, share, amount).softmax(0).numpy()
        expected = (1 - amount) * network[:, :2] + amount * share[:, :2]
        np.testing.assert_allclose(p[:, :2], expected, atol=1e-6)
        np.testing.assert_allclose(p[:, 2:], network[:, 2:], atol=1e-6)


def test_nothing_of_the_vote_is_the_network_and_all_of_it_the_vote():
    logits, share = network_and_vote()
    assert blended_logits(logits, share, 0) is logits
    decided = blended_logits(logits, share, 1.0).argmax(0).numpy()
    np.testing.assert_array_equal(decided[:2], share[:, :2].argmax(0))
    np.testing.assert_array_equal(decided[2:], logits[:, 2:].argmax(0))
    assert torch.isfinite(blended_logits(logits, share, 1.0)).all()

"""Random numbers follow from seed, stream and place alone."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from graphnn_unet.seeds import Stream, case_draw, generator, index_of, torch_seed, weights_seed

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.sampled_from(Stream), st.integers(0, 2**40))
def test_a_place_of_a_stream_always_gives_the_same_numbers(seed, stream, step):
    first = generator(seed, stream, step).integers(2**40, size=3)
    assert (first == generator(seed, stream, step).integers(2**40, size=3)).all()
    assert 0 <= torch_seed(seed, stream, step) < 2**63


def test_seeds_streams_and_places_do_not_share_numbers():
    places = list(itertools.product(range(3), Stream, range(3)))
    assert len({torch_seed(*place) for place in places}) == len(places)
    assert len({int(generator(*place).integers(2**62)) for place in places}) == len(places)


def test_names_have_numbers_of_their_own():
    assert len({index_of(name) for name in ("a", "b", "ab", "")}) == 4
    assert index_of("scan_1") == index_of("scan_1") < 2**56


def test_published_weights_and_draws_follow_from_the_plain_number():
    assert [weights_seed(7), weights_seed(7, 1)] == [7, 8]
    assert case_draw(3).permutation(6).tolist() == [2, 5, 4, 1, 3, 0]

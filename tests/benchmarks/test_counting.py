"""Work counted by hand, at sizes that a person can multiply."""

import pytest

from raserec_jax.benchmarks.counting import (
    Pass,
    Product,
    Work,
    adam_work,
    encoder_work,
    full_softmax_work,
    rank_work,
    reader_work,
    sampled_softmax_work,
    search_work,
    total,
)


def test_a_product():
    assert Product(2, 3, 5).flops == 60
    assert Product(2, 3, 5, times=0.5, batch=4).flops == 120


def test_encoder_layer_by_layer():
    """Two rows of three places, width 4, two heads of 2, inner 8."""
    shape = {"rows": 2, "seq": 3, "dim": 4, "inner_dim": 8, "num_heads": 2}
    projections = 2 * 6 * 4 * 4 * 3  # query, key, value: 576
    attention = 2 * (4 * 2 * 3 * 2 * 3)  # scores and values of 4 heads in all: 288
    behind = 2 * 6 * 4 * 4 + 2 * (2 * 6 * 4 * 8)  # output 192, feed-forward 768
    one = encoder_work(**shape, num_layers=1)
    assert one.flops == projections + attention + behind == 1824
    assert one.exps == 6 * 2 * 3 + 6 * 8
    counts = dict.fromkeys(("softmax", "gelu", "layer_norm"), 0.0)
    for between in one.passes:
        counts[between.what] += between.count
    assert counts == {"softmax": 6 * 2 * 3, "gelu": 6 * 8, "layer_norm": 3 * 6 * 4}
    assert encoder_work(**shape, num_layers=2).flops == 2 * 1824
    # Two of six places are read: behind the attention a third of the work.
    assert encoder_work(**shape, num_layers=1, reads=2).flops == 576 + 288 + 960 / 3
    assert encoder_work(**shape, num_layers=2, reads=2).flops == 1824 + 576 + 288 + 960 / 3
    both = encoder_work(**shape, num_layers=1, backward=True)
    assert not both.passes
    assert (both.flops, both.exps) == (3 * 1824, 2 * one.exps)


def test_full_softmax():
    work = full_softmax_work(targets=3, items=10, dim=4, chunk=5)
    assert work.flops == 3 * (2 * 3 * 10 * 4)
    assert sum(one.flops for one in work.recomputed) == 2 * 3 * 10 * 4
    assert (work.exps, work.bytes) == (60, 3 * 10 * 4 * 4)
    assert {one.shape[1:4] for one in work.products} == {(3, 4, 5), (3, 5, 4), (4, 3, 5)}


def test_sampled_softmax_does_not_know_the_catalogue():
    work = sampled_softmax_work(targets=3, negatives=7, touched=11, dim=4)
    assert (work.flops, work.exps, work.bytes) == (3 * 2 * 3 * 7 * 4, 42, 6 * 11 * 4 * 4)


def test_adam():
    assert adam_work(10) == Work(bytes=8 * 10 * 4)


@pytest.mark.parametrize("tile", [5, 100])
def test_search(tile):
    work = search_work(queries=6, bank=20, dim=4, tile=tile, query_chunk=2)
    assert work.flops == 2 * 6 * 20 * 4
    assert work.bytes == 3 * 20 * 4 * 4  # the keys once for each of three chunks


def test_ranks_take_their_products_twice_only_in_several_chunks():
    common = {"users": 6, "dim": 4, "user_chunk": 2}
    assert rank_work(items=9, item_chunk=10, **common).flops == 2 * 6 * 9 * 4
    twice = rank_work(items=10, item_chunk=10, **common)
    assert twice.flops == 2 * (2 * 6 * 10 * 4)
    assert [(one.rows, one.columns, one.count) for one in twice.passes] == [(2, 10, 60)]


def test_reader():
    """Batch 1, one memory, width 2, one head, inner 3, forward: two channels of two attentions and a layer."""
    work = reader_work(batch=1, top_k=1, dim=2, inner_dim=3, num_heads=1, backward=False)
    attention = 2 * (2 * 2 * 2) + 2 * (2 * 2 * 2) + 2 * (2 * 2 * 1)
    assert work.flops == 2 * (2 * attention + 2 * (2 * 2 * 3))


def test_sums_and_multiples():
    one = Work((Product(1, 1, 1),), (Product(1, 1, 2),), 3, 5, (Pass("gelu", 2, 3),))
    assert one.times(4).flops == 8
    assert total([one, one.times(4)]) == Work(
        (Product(1, 1, 1), Product(1, 1, 1, 4)),
        (Product(1, 1, 2), Product(1, 1, 2, 4)),
        15,
        25,
        (Pass("gelu", 2, 3), Pass("gelu", 2, 3, 4)),
    )
    assert one.times(4).passes[0].count == 24

"""Counts of the loop: what must not happen once training has settled."""

import pytest

from raserec_jax.benchmarks.bench import Bench
from raserec_jax.benchmarks.count_rows import counted_stages
from raserec_jax.benchmarks.sizes import TINY
from tests.tiny_workdir import quick_compiles


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("counts")
    with quick_compiles():
        return counted_stages(Bench(TINY, folder), folder)


@pytest.mark.parametrize("stage", ["stage 1", "stage 2"])
def test_nothing_is_compiled_after_the_first_epoch(counted, stage):
    first, *later = counted[stage].compilations
    assert first > 0
    assert later == [0, 0, 0]


def test_nothing_is_searched_inside_an_epoch_of_stage_2(counted):
    assert counted["stage 2"].searches == [0, 0, 0, 0]


@pytest.mark.parametrize("stage", ["stage 1", "stage 2"])
def test_the_host_waits_once_for_each_device_call(counted, stage):
    told = counted[stage]
    assert int(told.calls) >= 4  # one at least in each epoch
    assert int(told.reads) == int(told.calls)

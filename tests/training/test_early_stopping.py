"""Early stopping: by hand."""

from raserec_jax.training.early_stopping import EarlyStopping, should_stop, update


def states(values):
    state = EarlyStopping()
    for epoch, value in enumerate(values):
        state = update(state, value, epoch)
        yield state


def test_only_a_higher_value_is_an_improvement():
    *_, last = states([0.1, 0.3, 0.3, 0.2])
    assert last == EarlyStopping(best=0.3, best_epoch=1, epochs_since=2)


def test_the_first_value_is_an_improvement_even_if_it_is_zero():
    assert next(states([0.0])) == EarlyStopping(0.0, 0, 0)


def test_it_stops_once_more_than_patience_epochs_were_no_better():
    stops = [should_stop(state, 2) for state in states([0.5, 0.1, 0.6, 0.6, 0.1, 0.2, 0.3])]
    assert stops == [False] * 5 + [True, True]


def test_patience_zero_never_stops():
    assert not any(should_stop(state, 0) for state in states([0.5] * 50))


def test_nan_is_no_improvement():
    *_, last = states([0.1, float("nan"), 0.05])
    assert last == EarlyStopping(0.1, 0, 2)

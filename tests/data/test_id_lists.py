"""Lists of ids."""

import pytest

from raserec_jax.data.id_lists import read_ids
from raserec_jax.errors import DataError


def test_one_id_per_line(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("\ufeffB00A\r\n\n  a b \nü\u2028x\n7", encoding="utf-8")
    assert read_ids(path) == ["B00A", "a b", "ü\u2028x", "7"]
    path.write_text("")
    with pytest.raises(DataError, match="empty file; expected one id per line; leave the list out"):
        read_ids(path)
    with pytest.raises(DataError, match="no such file"):
        read_ids(tmp_path / "none")

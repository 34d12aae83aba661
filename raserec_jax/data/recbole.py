"""The header of RecBole's atomic files: `user_id:token<tab>timestamp:float`.

Format: recbole.io/docs/user_guide/data/atomic_files.html. Fields are separated by tabs, without
quoting.
"""

import dataclasses
import re

from raserec_jax.data.sources import at_line, shown
from raserec_jax.data.tables import Table
from raserec_jax.errors import DataError

_TYPED_NAME = re.compile(r".+:(token|token_seq|float|float_seq)", re.DOTALL)


def is_typed(name: str) -> bool:
    """Whether a column's name carries a type."""
    return _TYPED_NAME.fullmatch(name.strip()) is not None


def without_types(table: Table) -> Table:
    """The table with plain column names.

    Raises:
      DataError: a name carries no type.
    """
    for name in table.names:
        if not is_typed(name):
            raise DataError(
                f"{at_line(table.path, 1)}: column {shown(name)} has no type, expected a header "
                "such as 'user_id:token'; add the types, or read it with format='table'"
            )
    names = tuple(name.rpartition(":")[0] for name in table.names)
    return dataclasses.replace(table, names=names)

"""What every format yields: some interactions, one column per role."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from raserec_jax.data.roles import find_roles
from raserec_jax.data.tables import Table


class AnyColumn(Protocol):
    """As `columns.Column`: parsed when asked, so what nobody needs may hold anything."""

    def ids(self) -> np.ndarray:
        """[rows] int64 or UTF-8 bytes (`S`)."""

    def numbers(self) -> np.ndarray:
        """[rows] int64 or float64."""


class Chunk(NamedTuple):
    """Some interactions, in the file's order; a role that the file does not have is None."""

    user_id: AnyColumn
    item_id: AnyColumn
    position: AnyColumn | None = None
    timestamp: AnyColumn | None = None
    rating: AnyColumn | None = None


def chunk_of_table(table: Table, columns: Mapping[str, str]) -> Chunk:
    """The columns of a table by their names; arguments and errors as `roles.find_roles`."""
    places = find_roles(table.path, table.names, columns)
    return Chunk(**{role: table.column_at(place) for role, place in places.items()})

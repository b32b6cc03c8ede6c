"""Which tables a connection may write at a moment: SQLite itself refuses the rest.

The typed handles cannot write another node's tables; this holds even for SQL that goes round them. SQLite asks the
authorizer when a statement is prepared, and setting another one makes it prepare every cached statement again.
"""

import sqlite3
from collections.abc import Callable

from state.tables import WRITERS

Authorizer = Callable[[int, str | None, str | None, str | None, str | None], int]

_HARMLESS = frozenset(
    {
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_RECURSIVE,
        sqlite3.SQLITE_TRANSACTION,
        sqlite3.SQLITE_SAVEPOINT,
    }
)

_READING_PRAGMAS = frozenset({"table_info", "table_xinfo", "index_list", "index_info", "index_xinfo", "data_version"})

_TABLES: dict[str, frozenset[str]] = {**WRITERS, "lease": frozenset({"meta", "campaign"}), "": frozenset()}
"""Node -> what it writes; `lease` is the moment of taking over, the empty name is reading."""


def authorizer(node: str) -> Authorizer:
    """Return the rule for one node: its own tables may grow and change, the journal may grow, nothing is ever deleted.

    Raises:
        KeyError: There is no such node.
    """
    own = _TABLES[node]
    growing = own | {"journal"} if own else own

    def rule(action: int, first: str | None, _second: str | None, _database: str | None, _trigger: str | None) -> int:
        if action in _HARMLESS:
            is_allowed = True
        elif action == sqlite3.SQLITE_INSERT:
            is_allowed = first in growing
        elif action == sqlite3.SQLITE_UPDATE:
            is_allowed = first in own
        else:
            is_allowed = action == sqlite3.SQLITE_PRAGMA and first in _READING_PRAGMAS
        return sqlite3.SQLITE_OK if is_allowed else sqlite3.SQLITE_DENY

    return rule

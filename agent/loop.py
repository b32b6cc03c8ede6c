"""The loop: knowing, deciding, approving, doing, on LangGraph with its checkpoints in a file of their own.

The channels hold ids, counters and words only; everything else is in the store, which alone says what is true and
whether the campaign has ended. A checkpoint never covers an effect: effects are exactly-once by their action key.
"""

import sqlite3
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict

from tools.jobs.privacy import stay_offline

# The graph library sends every step to an address where the environment names one; it reads that once.
stay_offline()

from langgraph.checkpoint.sqlite import SqliteSaver  # noqa: E402 - see above
from langgraph.graph import END, START, StateGraph  # noqa: E402
from langgraph.graph.state import CompiledStateGraph  # noqa: E402
from langgraph.types import interrupt  # noqa: E402


class KnowingState(TypedDict, total=False):
    """What the knowing node last did."""

    verified: str
    """Kind of act whose beliefs were refreshed in this visit, or empty."""


class DecidingState(TypedDict, total=False):
    """What the deciding node last chose."""

    decision: str
    action: str
    question: str
    """Id of the approval that everything now waits for, or empty."""
    wants: str
    """Kind of act whose beliefs must be refreshed before it is chosen, or empty."""


class GraphState(TypedDict, total=False):
    """The channels, under 10 KB."""

    knowing: KnowingState
    deciding: DecidingState


class Node(Protocol):
    """A node: reads the channels, returns what it changes of them."""

    def __call__(self, state: GraphState) -> dict[str, Any]:
        """Do one visit."""


Graph = CompiledStateGraph[GraphState, None, GraphState, GraphState]


def open_saver(path: Path) -> SqliteSaver:
    """Open the checkpoint file; a damaged one is set aside, and the loop begins anew: it holds the position only.

    Raises:
        sqlite3.OperationalError: The file cannot be opened or stays locked: that is no damage.
    """
    try:
        return _opened(path)
    except Exception as error:
        # Bytes that were no checkpoint may break any decoder. A table that is not where it was is SQLITE_ERROR; text
        # that is no UTF-8 has no code.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
            raise
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(part.with_name(part.name + ".damaged"))
    return _opened(path)


def _opened(path: Path) -> SqliteSaver:
    """Open with a connection of our own: the saver's sets no synchronous mode and waits 5 s (durability.md 1.4)."""
    connection = sqlite3.connect(path, check_same_thread=False, timeout=30)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("a page is damaged")  # noqa: TRY301 - the connection is closed below
        saver = SqliteSaver(connection)
        saver.setup()
        # A flipped bit in a row breaks no page, and one in the list of free pages only what is written: read and write
        # as the loop will.
        prune(saver)
        graph = build(_nothing, _nothing, _nothing, saver)
        for kept in list(saver.list(None)):
            graph.get_state(kept.config)
            for version in kept.checkpoint["channel_versions"].values():
                saver.get_next_version(str(version), None)
    except BaseException:
        connection.close()
        raise
    return saver


def _nothing(state: GraphState) -> dict[str, Any]:  # noqa: ARG001 - a node that is never visited
    return {}


def prune(saver: SqliteSaver) -> None:
    """Keep the newest checkpoint of each thread; the saver has no pruning of its own.

    Safe here because no channel is a `DeltaChannel`, whose state would be destroyed (facts/durability.md 1.2).
    """
    newest = "SELECT thread_id, checkpoint_ns, max(checkpoint_id) FROM checkpoints GROUP BY 1, 2"
    with saver.lock:
        connection = saver.conn
        connection.commit()
        connection.execute("BEGIN IMMEDIATE")
        for table in ("writes", "checkpoints"):
            connection.execute(
                f"DELETE FROM {table} WHERE (thread_id, checkpoint_ns, checkpoint_id) NOT IN ({newest})"  # noqa: S608 - our own words
            )
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def approving(state: GraphState) -> dict[str, Any]:
    """Wait for a person; nothing before the interrupt has effects."""
    question = state.get("deciding", {}).get("question", "")
    interrupt({"question": question})
    return {"deciding": {**state.get("deciding", {}), "question": ""}}


def _after_deciding(state: GraphState) -> Literal["approving", "doing", "knowing", "__end__"]:
    deciding = state.get("deciding", {})
    if deciding.get("action") == "end":
        return "__end__"
    if deciding.get("wants"):
        return "knowing"
    return "approving" if deciding.get("question") else "doing"


def build(knowing: Node, deciding: Node, doing: Node, saver: SqliteSaver) -> Graph:
    """Wire the three nodes and the question between them.

    Args:
        knowing: Artifacts and files in, beliefs out.
        deciding: Beliefs in, one decision out.
        doing: The approved decision in, effects out.
        saver: Where the position in the loop is kept.
    """
    graph = StateGraph(GraphState)
    graph.add_node("knowing", knowing)
    graph.add_node("deciding", deciding)
    graph.add_node("approving", approving)
    graph.add_node("doing", doing)
    graph.add_edge(START, "knowing")
    graph.add_edge("knowing", "deciding")
    graph.add_conditional_edges(
        "deciding", _after_deciding, {"approving": "approving", "doing": "doing", "knowing": "knowing", "__end__": END}
    )
    graph.add_edge("approving", "knowing")
    graph.add_edge("doing", "knowing")
    return graph.compile(checkpointer=saver)

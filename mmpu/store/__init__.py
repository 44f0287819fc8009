"""What must not be paid for twice: answers kept in SQLite, and the ledger of what was asked."""

from mmpu.store.lock import locked
from mmpu.store.store import Ledger, Store, connect, intact, new_owner, write_atomically

__all__ = ["Ledger", "Store", "connect", "intact", "locked", "new_owner", "write_atomically"]

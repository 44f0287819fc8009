"""What must not be paid for twice: answers kept in SQLite, and the ledger of what was asked."""

from mmpu.store.lock import locked
from mmpu.store.store import Ledger, Store, connect, new_owner, reading, write_atomically

__all__ = ["Ledger", "Store", "connect", "locked", "new_owner", "reading", "write_atomically"]

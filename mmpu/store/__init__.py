"""What must not be paid for twice: answers kept in SQLite, and the ledger of what was asked."""

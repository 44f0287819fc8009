"""Pictures: opened, bounded, hashed, sent and fetched."""

"""From an approved version to all users, step by step, or back: decisions, the ledger, what follows from it."""

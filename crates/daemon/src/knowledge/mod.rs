//! What Hale remembers: runtime journal, ledger store and the index for reading commands.

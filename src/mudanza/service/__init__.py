"""The daemon: processes that do the work, keep balance, and answer by HTTP."""

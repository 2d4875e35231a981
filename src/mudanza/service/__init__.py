"""The daemon: one process that does the work, keeps balance, and answers by HTTP."""

"""Carries one VM over: what is prepared, transferred, settled and cleaned up, each step journalled."""

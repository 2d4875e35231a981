"""Fewer hosts when little is to be done: which are emptied and switched off, and which are woken. Pure."""

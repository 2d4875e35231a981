"""Asking a daemon for what commands else do here."""

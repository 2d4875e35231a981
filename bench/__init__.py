"""Benchmarks: each one measures mudanza and its peer in the same run, by turns."""

"""The crash matrix: every kind of move, hit by every fault in every phase, in real hosts.

What is to come of each cell stands in ``cells`` and was written before it was seen. ``python -m tests.lab.matrix``
brings the cells about one by one and writes docs/reliability.md.
"""

"""Reading hosts and what is on them into one immutable picture."""

"""What a move will be like: how long, how dark, how many bytes, by which strategy and why; and what came of it."""

"""What a checkpoint holds, what fits where, and how fast it could be."""

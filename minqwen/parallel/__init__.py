"""One model on several processes: who holds what, and how they meet."""

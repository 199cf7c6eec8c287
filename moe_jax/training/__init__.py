"""Training: a step, its optimiser and state, and the loop that reads, steps, saves and reports."""

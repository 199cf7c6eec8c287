"""The experts' grouped matmuls: checked, tuned, and beside torch's."""

"""Generation, by way and batch size."""

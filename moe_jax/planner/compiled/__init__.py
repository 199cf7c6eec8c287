"""What a compiled program needs and how fast it is: XLA's results, read and added up."""

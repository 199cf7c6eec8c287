"""What a profile says of a step: where time goes, and what communication hides behind. Measured."""

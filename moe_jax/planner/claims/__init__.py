"""What the paper claims, held against plans of the same programs."""

"""Names of parts of a step, by which compiled programs and profiles show what belongs to them."""

#: The scan over layers.
LAYERS = "layers"
#: The loop over what did not fit into an exchange's main round.
FURTHER_ROUNDS = "further_rounds"

"""The MoE layer of each contestant, forward and backward; imported in its own process."""

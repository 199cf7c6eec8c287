"""Which layout, or size of cluster, is best: many modelled, the best few compiled."""

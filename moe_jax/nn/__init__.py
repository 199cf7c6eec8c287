"""The parts of a layer: attention, MLP, norms, embeddings. None knows what lies around it."""

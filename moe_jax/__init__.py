"""Train, plan and run Mixture-of-Experts transformers in JAX with one expert per device."""

"""Compiling a config's programs for a cluster that is not there."""

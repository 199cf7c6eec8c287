"""Processes to a job, devices to a mesh, and the compiler's options."""

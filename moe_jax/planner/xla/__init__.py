"""What XLA leaves behind, read: HLO text, schedules, buffers. Knows no config of ours."""

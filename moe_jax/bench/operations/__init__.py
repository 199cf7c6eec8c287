"""Single operations and collectives of a layer, which make a `Calibration`."""

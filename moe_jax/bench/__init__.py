"""Times what runs here: operations, collectives, steps, layouts, generation. All *measured*."""

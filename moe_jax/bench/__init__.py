"""Times what runs here, a folder per kind of thing: all *measured*."""

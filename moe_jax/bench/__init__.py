"""Times what runs here, a folder per kind of thing: all *measured*. See README.md."""

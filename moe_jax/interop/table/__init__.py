"""Kinds of entries that the tables of families are made of."""

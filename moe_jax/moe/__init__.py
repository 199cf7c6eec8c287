"""Mixture-of-Experts layers: routing, balance, experts and the exchange between them."""

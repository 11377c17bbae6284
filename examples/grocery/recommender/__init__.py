"""Predict what a customer will buy in the next seven days: trained on `recommendation_v1`, evaluated on held-back
weeks, served online.

`candidates` retrieves the products to rank, `model` fits and ranks, `evaluation` measures, `serving` recommends to one
customer.
"""

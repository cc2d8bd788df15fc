"""Claim: where something can be gained over well-chosen fixed weights, the table says by whom and how much."""

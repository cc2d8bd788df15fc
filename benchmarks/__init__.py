"""One script per claim; the claim and its last figures are in the header of the script."""

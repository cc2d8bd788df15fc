"""What turns a weighting into another.

`every_k`, `smoothed`, `on_average_gram`, `normalized`, `on_log_losses`, `keyed`.
"""

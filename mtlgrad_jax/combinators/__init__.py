"""What turns a weighting into another: `every_k`, `smoothed`, `normalized`, `on_log_losses`, `keyed`."""

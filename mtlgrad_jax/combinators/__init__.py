"""What turns any weighting into another: `every_k`, `smoothed`, `normalized`, and `keyed` for a random one."""

"""How far points are from a Pareto set that is a curve."""

import numpy as np


def to_curve(points, curve):
    """Return how far points, shape (..., D), are from a polyline, shape (K, D), and their place on it, 0 to 1."""
    points, curve = np.asarray(points, float), np.asarray(curve, float)
    starts, along = curve[:-1], np.diff(curve, axis=0)
    lengths = np.linalg.norm(along, axis=1)
    offsets = points[..., None, :] - starts
    shares = np.clip(np.sum(offsets * along, -1) / np.where(lengths > 0, lengths, 1) ** 2, 0, 1)
    distances = np.linalg.norm(offsets - shares[..., None] * along, axis=-1)
    nearest = np.argmin(distances, axis=-1)
    share = np.take_along_axis(shares, nearest[..., None], -1)[..., 0]
    walked = np.concatenate([[0], np.cumsum(lengths)])
    return distances.min(-1), (walked[nearest] + share * lengths[nearest]) / (walked[-1] or 1)

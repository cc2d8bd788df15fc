"""Many trade-offs at once: a population of members, each with its own, and what the front of their losses is worth.

    rays ──► K members, one vmap ──► losses (K, T) ──► nondominated, hypervolume ──► closest, knee, within

| symbol | in code   | shape    | meaning                                                                    |
|--------|-----------|----------|----------------------------------------------------------------------------|
| K      |           | int      | number of members                                                          |
| r      | `ray`     | `(T,)`   | the proportion in which the losses of a member should end, L = c·r         |
| L      | `losses`  | `(K, T)` | one row a member, less is better                                           |
|        |`reference`| `(T,)`   | losses that are worth nothing; the hypervolume is measured up to there     |

`population` makes a step for all members out of any transformation: one on a ray (`mtl.epo`, `mtl.pbi`, `mtl.cosmos`,
`mtl.stch`), with a preference, or with weights that look at all members (`hypervolume_weights`, `repelling_weights`).
"""

from mtlgrad_jax.fronts.choose import closest, knee, within
from mtlgrad_jax.fronts.distances import angles, generational_distance, inverted_generational_distance, uniformity
from mtlgrad_jax.fronts.dominance import nondominated, ranks
from mtlgrad_jax.fronts.hypervolume import hypervolume, hypervolume_weights
from mtlgrad_jax.fronts.population import Members, Population, population
from mtlgrad_jax.fronts.rays import rays
from mtlgrad_jax.fronts.repulsion import repelling_weights

__all__ = [
    "Members",
    "Population",
    "angles",
    "closest",
    "generational_distance",
    "hypervolume",
    "hypervolume_weights",
    "inverted_generational_distance",
    "knee",
    "nondominated",
    "population",
    "ranks",
    "rays",
    "repelling_weights",
    "uniformity",
    "within",
]

"""Numbers that tell what a step did: pure functions of the Gram matrix and the weights, or of the step.

| question                                        | function               | of            | shape    |
|-------------------------------------------------|------------------------|---------------|----------|
| which gradients oppose each other?              | `cosines`, `conflicts` | gram          | `(T, T)` |
| which are long, which are short?                | `relative_lengths`     | gram          | `(T,)`   |
| does one drown another?                         | `magnitude_similarity` | gram          | `(T, T)` |
| how fast does u = Jᵀw lower each loss?          | `progress`             | gram, weights | `(T,)`   |
| how well does u suit each task?                 | `alignment`            | gram, weights | `(T,)`   |
| which losses does u raise?                      | `hurt_tasks`           | gram, weights | `(T,)`   |
| is any task hurt by u, at worst?                | `worst_alignment`      | gram, weights | `()`     |
| how much longer than the shortest is u?         | `relative_gap`         | gram, weights | `()`     |
| how many tasks make up u?                       | `effective_tasks`      | gram, weights | `()`     |
| can all losses still fall together?             | `stationarity`         | gram, weights | `()`     |
| all of this as a few scalars for a logger       | `summarize`            | gram, weights | `()` each|
| and the step that is taken, behind momentum, …? | `step_cosines`, `hurt_by_step` | J, updates | `(T,)` |

`scalars(opt_state, names)` is all of this in a flat dict of named numbers, whatever the optimiser is made of.
`read(opt_state)` finds both in the state of any optimiser whose method was made with `num_tasks`; a `History`
keeps them for plots. `read_step(opt_state)` finds what `guard` recorded of the step itself. Everything is in units of
the gradients themselves: no threshold depends on their scale.
"""

from mtlgrad_jax.diagnostics.direction import alignment, effective_tasks, hurt_tasks, progress, stationarity
from mtlgrad_jax.diagnostics.gradients import (
    conflicts,
    cosines,
    magnitude_similarity,
    relative_lengths,
    resolution,
)
from mtlgrad_jax.diagnostics.history import History
from mtlgrad_jax.diagnostics.reading import Reading, read
from mtlgrad_jax.diagnostics.scalars import scalars
from mtlgrad_jax.diagnostics.step_taken import hurt_by_step, read_step, step_cosines
from mtlgrad_jax.diagnostics.summary import Summary, summarize
from mtlgrad_jax.solvers.certificates import relative_gap, worst_alignment

__all__ = [
    "History",
    "Reading",
    "Summary",
    "alignment",
    "conflicts",
    "cosines",
    "effective_tasks",
    "hurt_by_step",
    "hurt_tasks",
    "magnitude_similarity",
    "progress",
    "read",
    "read_step",
    "relative_gap",
    "relative_lengths",
    "resolution",
    "scalars",
    "stationarity",
    "step_cosines",
    "summarize",
    "worst_alignment",
]

"""The Optax factories of the methods that need nothing but the Gram matrix.

One line each: options, formula and references come from the weighting of the same name.
"""

from mtlgrad_jax import weightings
from mtlgrad_jax.solvers.alpha_fair import fairness_gap
from mtlgrad_jax.transforms._factory import factory
from mtlgrad_jax.weightings.cagrad import cagrad_gap
from mtlgrad_jax.weightings.dualproj import dualproj_gap

mean = factory(weightings.mean)
sum = factory(weightings.sum)
constant = factory(weightings.constant, example="num_tasks=2, weights=(1.0, 0.1)")

upgrad = factory(weightings.upgrad)
dualproj = factory(weightings.dualproj, certificate=dualproj_gap, gap="that of the projection")
cagrad = factory(weightings.cagrad, certificate=cagrad_gap, gap="the duality gap of its program")
nash_mtl = factory(weightings.nash_mtl, certificate=fairness_gap, gap="the inequality of wᵢ⟨gᵢ,u⟩ among tasks")
fairgrad = factory(weightings.fairgrad, certificate=fairness_gap, gap="the inequality of wᵢ^(1/α)⟨gᵢ,u⟩ among tasks")
imtl_g = factory(weightings.imtl_g)
aligned_mtl = factory(weightings.aligned_mtl)
conflict_free = factory(weightings.conflict_free)
dcgd = factory(weightings.dcgd)

cosine_gate = factory(weightings.cosine_gate, num_primary=1)
aux_projection = factory(weightings.aux_projection, num_primary=1)
dynamic_barrier = factory(weightings.dynamic_barrier, num_primary=1)
pcd = factory(weightings.pcd, num_primary=1)

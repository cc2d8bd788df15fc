"""What a user may get wrong; a type checker must flag exactly the lines that say `# error`, by that rule.

It is read by the type checker, see `tests/test_types.py`, and never run.
"""

import jax
import jax.numpy as jnp
import optax

import mtlgrad_jax as mtl
from mtlgrad_jax.methods import cagrad

gram, params = jnp.eye(2), jnp.zeros(2)


# Keywords that do not exist, or are missing.
mtl.mgda(num_task=2)  # error: reportCallIssue
mtl.primary_aux(num_tasks=2, num_primaries=1)  # error: reportCallIssue
mtl.cosine_gate(strenght=0.5)  # error: reportCallIssue
mtl.mean(preference=params)  # error: reportCallIssue
mtl.constant(num_tasks=2)  # error: reportCallIssue
mtl.weightings.constant(gram)  # error: reportCallIssue
mtl.weightings.famo(num_tasks=2)  # error: reportCallIssue
mtl.accumulate(optax.adam(0.1), every_k=2)  # error: reportCallIssue
mtl.clip_task_norms()  # error: reportCallIssue
mtl.solvers.min_norm(gram, num_simplices=1)  # error: reportCallIssue

# Options are given by name.
mtl.cagrad(2, 0.4)  # error: reportCallIssue
mtl.aggregate(mtl.weightings.mgda, 2, "model")  # error: reportCallIssue

# Values of the wrong type.
mtl.mgda(num_tasks="3")  # error: reportArgumentType
mtl.mgda(num_tasks=2.0)  # error: reportArgumentType
mtl.pcgrad(axis_name=0)  # error: reportArgumentType
mtl.upgrad(preference="first")  # error: reportArgumentType
mtl.upgrad(preference={"left": 0.7, "right": 0.3})  # error: reportArgumentType
mtl.krum(num_byzantine=0.5)  # error: reportArgumentType
mtl.weightings.mgda("gram")  # error: reportArgumentType
mtl.weightings.every_k(mtl.weightings.mgda, k=1.5)  # error: reportArgumentType
mtl.accumulate(mtl.weightings.mgda, every_k=2, num_tasks=2)  # error: reportArgumentType

# Words that an option does not know.
mtl.mgda(nonfinite="ignore")  # error: reportArgumentType
mtl.aggregate(mtl.weightings.mgda, nonfinite="drop_tasks")  # error: reportArgumentType
mtl.mgda(normalization="L2")  # error: reportArgumentType
mtl.weightings.mgda(gram, normalization="losses")  # error: reportArgumentType
mtl.aligned_mtl(scale="max")  # error: reportArgumentType
mtl.cagrad(rescale="1+c2")  # error: reportArgumentType
mtl.cosine_gate(gate="unweigthed")  # error: reportArgumentType
mtl.dcgd(variant="centre")  # error: reportArgumentType
mtl.accumulate(optax.adam(0.1), every_k=2, num_tasks=2, missing="skip")  # error: reportArgumentType
mtl.descent_direction(jnp.square, params, mtl.weightings.mgda, method="jacobian")  # error: reportArgumentType
mtl.guard(optax.adam(0.1), metric="optimiser")  # error: reportArgumentType

# One kind of thing in the place of another.
mtl.aggregate(mtl.mgda)  # error: reportArgumentType
mtl.aggregate(mtl.mgda())  # error: reportArgumentType
mtl.aggregate(mtl.weightings.famo)  # error: reportArgumentType
mtl.aggregate(mtl.methods.mgda)  # error: reportArgumentType
mtl.aggregate("mgda")  # error: reportArgumentType
mtl.descent_direction(jnp.square, params, mtl.upgrad())  # error: reportArgumentType
mtl.guard_step(gram, params)  # error: reportArgumentType
mtl.mgda(solver=mtl.weightings.mgda)  # error: reportArgumentType
mtl.mgda(solver="frank_wolfe")  # error: reportArgumentType
mtl.cr_mogm(weighting=mtl.mgda())  # error: reportArgumentType
optax.chain(mtl.mgda, optax.adam(0.1))  # error: reportArgumentType

# Names that do not exist, and answers taken for something else.
mtl.mdga()  # error: reportAttributeAccessIssue
print(mtl.weightings.moco)  # error: reportAttributeAccessIssue
print(cagrad.gap)  # error: reportAttributeAccessIssue
print(mtl.plots.triangle)  # error: reportAttributeAccessIssue
print(mtl.solvers.min_norm(gram).weights)  # error: reportAttributeAccessIssue
weights: jax.Array = mtl.solvers.min_norm(gram)  # error: reportAssignmentType
losses, update = mtl.descent_direction(jnp.square, params, mtl.weightings.mgda)  # error: reportAssignmentType

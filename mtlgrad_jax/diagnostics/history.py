"""Readings of many steps, on the host, for plots."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from mtlgrad_jax.diagnostics.reading import Reading, read
from mtlgrad_jax.typing import PyTree


class History:
    """A list of readings, one per step, with anything else that was measured.

    Example:
      >>> import jax.numpy as jnp, optax, mtlgrad_jax as mtl
      >>> tx = optax.chain(mtl.mgda(num_tasks=2), optax.sgd(0.1))
      >>> losses_fn = lambda params: jnp.stack([jnp.sum((params - 1) ** 2), jnp.sum((params + 1) ** 2)])
      >>> params = jnp.array([0.5, 2.0])
      >>> opt_state = tx.init(params)
      >>> history = mtl.diagnostics.History()
      >>> for _ in range(3):
      ...     losses, task_grads = mtl.task_value_and_grad(losses_fn)(params)
      ...     updates, opt_state = tx.update(task_grads, opt_state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     history.append(opt_state, losses=losses)
      >>> len(history), history["weights"].shape, history["losses"].shape
      (3, (3, 2), (3, 2))
      >>> history.each(mtl.diagnostics.cosines).shape, history.share_of_steps(mtl.diagnostics.hurt_tasks)
      ((3, 2, 2), 0.0)
    """

    def __init__(self):
        self._columns: dict[str, list[np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self._columns.get("weights", ()))

    def __getitem__(self, name: str) -> np.ndarray:
        """Return `"gram"`, `"log2_scale"`, `"weights"`, `"gap"` or anything that was appended, one row per step."""
        if name not in self._columns:
            known = ", ".join(map(repr, self._columns)) or "nothing yet"
            raise KeyError(f"expected the name of something that was appended, got {name!r}; there is {known}.")
        return np.stack(self._columns[name])

    def append(self, state: PyTree, **measured: Any) -> None:
        """Add one step.

        It copies to the host, and so waits for the step; where that matters, call it at every tenth step or
        return `read(opt_state)` from a `jax.lax.scan` and `extend` with the stack of them.

        Args:
          state: What `read` takes, or a `Reading`.
          **measured: Arrays of one shape at every step, `losses=losses` for instance.

        Raises:
          ValueError: As `read`, or if other things are measured, or in other shapes, than at the steps before.
        """
        one_row = lambda leaf: np.asarray(leaf)[None]
        self.extend(jax.tree.map(one_row, read(state)), **jax.tree.map(one_row, measured))

    def extend(self, readings: Reading, **measured: Any) -> None:
        """Add many steps.

        Args:
          readings: A `Reading` with a leading axis of steps, as `jax.lax.scan` stacks them.
          **measured: Arrays with the same leading axis.

        Raises:
          ValueError: If other things are measured, or in other shapes, than at the steps before, or if leading
            axes differ.
        """
        measured = {name: value for name, value in readings._asdict().items() if value is not None} | measured
        rows = {name: np.asarray(value) for name, value in measured.items()}
        self._check(rows)
        for name, values in rows.items():
            self._columns.setdefault(name, []).extend(values)

    def each(self, function: Callable[..., jax.Array]) -> np.ndarray:
        """Apply a diagnostic to every step.

        Args:
          function: Its parameters are named after what it needs: `gram`, `weights`, `losses`, …

        Returns:
          Its results with a leading axis of steps.

        Raises:
          ValueError: If it needs something that was not recorded.
        """
        parameters = inspect.signature(function).parameters.values()
        names = [parameter.name for parameter in parameters if parameter.name in self._columns]
        missing = [p.name for p in parameters if p.name not in names and p.default is p.empty]
        if missing:
            raise ValueError(
                f"expected a function of what was recorded ({', '.join(self._columns)}), got one that also needs "
                f"{', '.join(missing)}; append it at every step, or give it a value with functools.partial "
                f"(a method that needs no Gram matrix, such as `sum`, records neither `gram` nor `gap`)."
            )
        rows = {name: self[name] for name in names}
        return np.asarray(_apply_to_rows(function, rows))

    def share_of_steps(self, function: Callable[..., jax.Array]) -> float:
        """Return the share of the steps in which a diagnostic is true of any pair or task.

        Args:
          function: Such as `conflicts` or `hurt_tasks`, see `each`.

        Returns:
          A number from 0 to 1.

        Raises:
          ValueError: See `each`.
        """
        flags = self.each(function)
        return float(np.mean(flags.reshape(len(flags), -1).any(axis=1)))

    def _check(self, rows):
        shapes = {name: values.shape[1:] for name, values in rows.items()}
        before = {name: column[0].shape for name, column in self._columns.items() if column}
        if before and shapes != before:
            raise ValueError(f"expected at every step what the first one measured, {before}, got {shapes}.")
        if len({values.shape[:1] for values in rows.values()}) != 1:
            whole = {name: values.shape for name, values in rows.items()}
            raise ValueError(f"expected arrays with one leading axis of steps, got {whole}; use append for one step.")


@partial(jax.jit, static_argnums=0)
def _apply_to_rows(function, rows):
    return jax.vmap(lambda row: function(**row))(rows)

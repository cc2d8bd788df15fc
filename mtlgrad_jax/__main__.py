"""`python -m mtlgrad_jax`: the main job, see `mtlgrad_jax.demo`."""

from mtlgrad_jax.demo import command_line

if __name__ == "__main__":
    command_line.main()

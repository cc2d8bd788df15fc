"""The main job: `python -m mtlgrad_jax` trains one network on two tasks, on data that ships with a dependency.

    data ──► problems ──► training ──► report, figure
                 ▲            ▲
              network      methods

Nothing here is imported by `import mtlgrad_jax`; it needs `pip install ".[demo]"` in a checkout.
"""

"""The main job: `python -m mtlgrad_jax` trains a network on two tasks, on the sum of their losses and with a method.

    equation, two_digits (data, network) ──► problems ──► training ──► report, figure (pictures)
                                                             ▲
                                                      methods, cost

Nothing here is imported by `import mtlgrad_jax`; it needs the extra `demo`: `pip install ".[demo]"` in a checkout.
"""

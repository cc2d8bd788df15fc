"""The arithmetic that everything else stands on; it imports nothing of ours.

`ranges` powers of two · `leaves` inner products and casts of single arrays · `meshes` what is split over devices, and
every reduction over them · `rows` stacks of task gradients, tree by tree · `grams` small Gram matrices · `keys` random
keys in a state · `extras` keywords that a function may name · `members` decisions under `vmap` · `logarithms` with
a defined answer everywhere · `first_use` names that are found when they are first asked for.
"""

"""Claim: where a method of the catalogue gains over well-chosen fixed weights, the table says which, and by how much.

    python -m benchmarks.does_it_help [--quick] [--out FOLDER]

The field's own critics found that fixed weights match most methods if they are tuned as carefully (Kurin et al.,
arXiv 2201.04122; Xin et al., arXiv 2209.11379). Here every method of `mtl.methods.catalogue()` that applies, at its
defaults, is compared with weights that cost the same.

Data, all of it inside wheels or made on the spot (`problems.py`, `physics.py`; source and licence of each are stored
with its rows): yeast, fourteen labels, and solar flare, three counts, from river; scikit-learn's digits, two of them
overlapping, and the same with the ink of one digit in grey levels as the second task; two overlaid signals of
MNIST-1D; RAND's health insurance experiment from statsmodels, public domain, where visits to a doctor are the task
that counts; Burgers' and Helmholtz' equation on small networks. Network: 64-64 and linear heads, three times 24 for
the equations; 400 to 1000 steps of Adam with batches of 64; ten seeds, each with its own split in three fifths to
train, one to choose by and one to judge by, its own initial values and batches, which all methods share.

Baselines first: one network for each task; equal weights, for which the rate of Adam is tuned that everybody uses;
fixed weights by random search, sixteen trials of which the first is equal, log-uniform over three decades;
uncertainty weighting, which is a method of the catalogue too. A method that costs c plain steps per step is compared
with the best of the first ⌊c⌋ trials, chosen on the split to choose by: the same budget. Time is that of the
processor, of ten trainings in one program beside that of Adam on the sum; methods that read no Gram matrix are
counted as one plain step, which they cost in `mtl.descent_direction`, and so is one task per step. Methods stand
before Adam; `sum`, `mgda`, `upgrad`, `primary_aux` are run behind `mtl.guard` too, the others not for lack of time. A
method does not take part where its claims say so: see "absent".

Δm: mean over tasks of the difference to the single-task network in per cent (of the seeds' mean), low is good; for
the equations, where one loss alone has no solution, to equal weights; for visits of that task alone. "best method"
has the lowest; the counts are how many are better/level/worse than weights tuned with the same budget, than the whole
search, and, the last one, with the same budget where the last network is judged and not that which was best on the
split to choose by. Better and worse are those of a paired t-test over seeds after Holm's correction for all methods
of a problem at .05; ten seeds tell a difference of about one and a half times its spread over seeds from nothing.
Commit 036dadb, c9f1048 (jax 0.10.2, CPU, beside other work):

                     tasks  equal   tuned  uncertainty  best method     same budget  whole search  not stopped
    yeast            14     -0.6    +3.1   +0.7         -0.5 nash_mtl   0/32/5       0/34/3        0/34/3
    solar flare      3      -0.9    -0.3   -0.8         -5.4 nash_mtl   0/34/3       0/34/3        0/33/4
    visits           3      +0.5    +0.0   +0.2         -0.0 si         2/39/3       0/32/12       0/41/3
    burgers          3      +0.0    -5.0   +29.0        -22.7 modo      1/24/12      0/23/14       1/28/8
    digits           2      +24.2   +24.2  +33.7        +15.7 modo      0/32/5       0/32/5        0/31/6
    digits in units  2      +329.9  +19.1  +232.7       +13.2 nash_mtl  21/7/9       0/7/30        10/19/8
    two signals      2      -0.7    -0.4   -0.4         -2.0 modo       0/33/4       0/33/4        0/32/5
    helmholtz        2      +0.0    -59.4  +56.8        -86.0 imtl_g    13/7/17      7/6/24        13/9/15

By the same test, of networks that were stopped early:

- yeast, same budget: tuned weights match everything; 5 of 37 are worse
- yeast, whole search: tuned weights match everything; 3 of 37 are worse
- solar flare, same budget: tuned weights match everything; 3 of 37 are worse
- solar flare, whole search: tuned weights match everything; 3 of 37 are worse
- visits, same budget: 2 beat tuned weights, first si; 3 of 44 are worse
- visits, whole search: tuned weights match everything; 12 of 44 are worse
- burgers, same budget: 1 beat tuned weights, first modo; 12 of 37 are worse
- burgers, whole search: tuned weights match everything; 14 of 37 are worse
- digits, same budget: tuned weights match everything; 5 of 37 are worse
- digits, whole search: tuned weights match everything; 5 of 37 are worse
- digits in units, same budget: 21 beat tuned weights, first nash_mtl; 9 of 37 are worse
- digits in units, whole search: tuned weights match everything; 30 of 37 are worse
- two signals, same budget: tuned weights match everything; 4 of 37 are worse
- two signals, whole search: tuned weights match everything; 4 of 37 are worse
- helmholtz, same budget: 13 beat tuned weights, first imtl_g; 17 of 37 are worse
- helmholtz, whole search: 7 beat tuned weights, first imtl_g; 24 of 37 are worse
- Better than tuned weights of the same budget: nash_mtl (digits in units, helmholtz); dcgd (digits in units,
  helmholtz); fairgrad (digits in units, helmholtz); conflict_free (digits in units, helmholtz); inverse_norm (digits
  in units, helmholtz); imtl_g (digits in units, helmholtz); cagrad (digits in units, helmholtz); guarded upgrad
  (digits in units, helmholtz); sdmgrad (digits in units, helmholtz); gradvac (digits in units, helmholtz); upgrad
  (digits in units, helmholtz); pcd (visits); dualproj (helmholtz); pcgrad (helmholtz); aligned_mtl (digits in units);
  cr_mogm (digits in units); guarded mgda (digits in units); si (visits, digits in units); modo (burgers); uncertainty
  (digits in units); imtl_l (digits in units); geometric (digits in units); mgda (digits in units); famo (digits in
  units); krum (digits in units)
- Never better: cosine_gate, primary_aux, guarded primary_aux, guarded sum, dwa, gradnorm, graddrop, bloop,
  dynamic_barrier, aux_projection, excess_mtl, random_weights, epo, trimmed_mean, stch, moco, cosmos, loss_balanced,
  momentum_conflict_free, pbi
- Failed to train: nobody

Outcome: the critics are right where tasks are alike. On yeast, solar flare, the digits and the two signals nobody is
better than weights tuned at the same cost, which for most are the best of two or three trials, and on the digits all
of them, tuned weights included, are worse than two networks of the same size. Where the units of the losses differ by
far (digits in units: gradients of 1 to 167) half of the catalogue is better than what two or three trials find, by
tens to hundreds of per cent, and nobody is better than all sixteen: a method that does not care about units saves a
search, it does not replace it. What is not had by weights is on Helmholtz' equation, where gradients differ and
oppose each other: the methods of equal projections and of projected conflicts beat even the whole search, at less
than twice the cost of a step; MGDA, FAMO and the logarithms of the losses do not learn it. On Burgers' equation, in
this short training, one method is better, and that one sees two batches per step. For one task that counts the
differences are in the first decimal of a per cent: the auxiliaries neither help nor hurt there. Rows behind the guard
differ from those without it by their spread over seeds or less.

What limits this: methods at their defaults, which are not meant for this where a method is drawn to equal losses
rather than low ones (`pbi`, `epo`, `cosmos`), follows one task at a time (`krum`), or is an optimiser itself and
stands here before another one (`momentum_conflict_free`); small networks and short runs; the rate is tuned for equal
weights, and is the largest one tried on Burgers. A step of the equations costs a method little more than a plain one,
because the T backward passes share one program; that of yeast shows what many tasks cost. Times contain what calling
two programs per step takes. On yeast all methods agree within noise. `modo` and `sdmgrad` see a second batch.
"""

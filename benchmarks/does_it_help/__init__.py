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
before Adam, and all that take a stack of gradients, and the sum, stand behind `mtl.guard` too; the guard is a program
of its own there, which is handed what Adam makes of the method. A method does not take part where its claims say so:
see "absent".

Δm: mean over tasks of the difference to the single-task network in per cent (of the seeds' mean), low is good; for
the equations, where one loss alone has no solution, to equal weights; for visits of that task alone. "best method"
has the lowest; the counts are how many are better/level/worse than weights tuned with the same budget, than the whole
search, and, the last one, with the same budget where the last network is judged and not that which was best on the
split to choose by. Better and worse are those of a paired t-test over seeds after Holm's correction for all rows of a
problem, guarded ones too, at .05; ten seeds tell a difference of about one and a half times its spread over seeds from
nothing. The whole is one run of one command, 73.5 minutes on two cores beside much other work, for which it took 50.1
minutes of one core (commit 983168f, jax 0.10.2, CPU):

                     tasks  equal   tuned  uncertainty  best method        same budget  whole search  not stopped
    yeast            14     -0.6    +3.1   -1.4         -1.4 uncertainty   0/32/5       0/34/3        0/34/3
    solar flare      3      -0.9    -0.3   -1.0         -5.3 inverse_norm  0/34/3       0/34/3        0/34/3
    visits           3      +0.5    +0.0   +0.3         -0.0 si            2/38/3       0/36/7        0/40/3
    burgers          3      +0.0    -5.0   +34.4        -22.7 modo         0/26/11      0/25/12       0/29/8
    digits           2      +24.2   +24.2  +34.1        +15.7 modo         0/32/5       0/32/5        0/32/5
    digits in units  2      +329.9  +19.1  +142.2       +10.7 nash_mtl     20/7/10      0/7/30        13/15/9
    two signals      2      -0.7    -0.4   -0.4         -2.0 modo          0/33/4       0/33/4        0/32/5
    helmholtz        2      +0.0    -59.4  -53.2        -86.0 imtl_g       13/11/13     7/12/18       12/15/10

Behind the guard: Δm of the sum and of the best method, the same counts, and how many are better/level/worse than
"its chain", which is the same method without the guard (paired; Holm for all pairs of a problem); median, least and
largest of these changes in Δm; and what the guard adds to a step, in plain steps, the median:

    behind the guard  sum     best method        same budget  whole search  its chain  median  from    to     time
    yeast             +0.0    -1.3 stch          0/34/3       0/34/3        0/37/0     +0.2    -11.7   +2.3   +5.0
    solar flare       -1.7    -5.1 nash_mtl      0/37/0       0/37/0        3/34/0     -0.5    -594.5  +0.6   +1.0
    visits            +0.5    -0.0 si            3/36/4       0/30/13       0/43/0     -0.0    -415.8  +0.1   +1.1
    burgers           +0.6    -18.4 fairgrad     0/29/8       0/28/9        1/36/0     -4.7    -189.7  +56.0  +0.2
    digits            +26.2   +14.3 modo         0/33/4       0/33/4        2/35/0     -0.8    -160.1  +9.3   +0.8
    digits in units   +313.5  +5.5 inverse_norm  22/8/7       0/7/30        10/26/1    -20.3   -473.2  +47.3  +0.6
    two signals       -0.7    -2.4 modo          0/33/4       0/33/4        0/37/0     -0.0    -2.5    +1.3   +1.1
    helmholtz         +25.5   -84.5 imtl_g       15/12/10     7/16/14       1/36/0     -0.7    -989.0  +74.4  +0.1

By the same tests, of networks that were stopped early where nothing else is said:

- yeast, same budget: tuned weights match everything; 5 of 37 are worse
- yeast, whole search: tuned weights match everything; 3 of 37 are worse
- solar flare, same budget: tuned weights match everything; 3 of 37 are worse
- solar flare, whole search: tuned weights match everything; 3 of 37 are worse
- visits, same budget: 2 beat tuned weights, first si; 3 of 43 are worse
- visits, whole search: tuned weights match everything; 7 of 43 are worse
- burgers, same budget: tuned weights match everything; 11 of 37 are worse
- burgers, whole search: tuned weights match everything; 12 of 37 are worse
- digits, same budget: tuned weights match everything; 5 of 37 are worse
- digits, whole search: tuned weights match everything; 5 of 37 are worse
- digits in units, same budget: 20 beat tuned weights, first inverse_norm; 10 of 37 are worse
- digits in units, whole search: tuned weights match everything; 30 of 37 are worse
- two signals, same budget: tuned weights match everything; 4 of 37 are worse
- two signals, whole search: tuned weights match everything; 4 of 37 are worse
- helmholtz, same budget: 13 beat tuned weights, first imtl_g; 13 of 37 are worse
- helmholtz, whole search: 7 beat tuned weights, first imtl_g; 18 of 37 are worse
- Better than tuned weights of the same budget: fairgrad (digits in units, helmholtz); nash_mtl (digits in units,
  helmholtz); dcgd (digits in units, helmholtz); conflict_free (digits in units, helmholtz); inverse_norm (digits in
  units, helmholtz); imtl_g (digits in units, helmholtz); cagrad (digits in units, helmholtz); sdmgrad (digits in units,
  helmholtz); upgrad (digits in units, helmholtz); gradvac (digits in units, helmholtz); pcd (visits); aligned_mtl
  (digits in units); dualproj (helmholtz); pcgrad (helmholtz); gradnorm (digits in units); self_adaptive (helmholtz);
  cr_mogm (digits in units); uncertainty (digits in units); imtl_l (digits in units); si (visits, digits in units);
  geometric (digits in units); mgda (digits in units); famo (digits in units); krum (digits in units)
- Never better: cosine_gate, primary_aux, relobralo, dwa, graddrop, bloop, dynamic_barrier, aux_projection, softadapt,
  excess_mtl, modo, stch, random_weights, epo, moco, trimmed_mean, cosmos, loss_balanced, momentum_conflict_free, pbi
- Better than tuned weights of the same budget, behind the guard: fairgrad (digits in units, helmholtz); nash_mtl
  (digits in units, helmholtz); dcgd (digits in units, helmholtz); cagrad (digits in units, helmholtz); imtl_g (digits
  in units, helmholtz); conflict_free (digits in units, helmholtz); gradvac (digits in units, helmholtz); sdmgrad
  (digits in units, helmholtz); gradnorm (digits in units, helmholtz); pcgrad (digits in units, helmholtz); upgrad
  (digits in units, helmholtz); dualproj (digits in units, helmholtz); imtl_l (digits in units, helmholtz); uncertainty
  (digits in units, helmholtz); pcd (visits); inverse_norm (digits in units, helmholtz); aligned_mtl (digits in units);
  cr_mogm (visits, digits in units); si (visits, digits in units); mgda (digits in units); geometric (digits in units);
  famo (digits in units); krum (digits in units)
- Never better, behind the guard: cosine_gate, primary_aux, self_adaptive, sum, dwa, graddrop, relobralo, bloop,
  random_weights, aux_projection, dynamic_barrier, modo, softadapt, excess_mtl, stch, epo, cosmos, trimmed_mean, moco,
  loss_balanced, pbi
- Behind the guard better than without it, 17 of 302: cosmos on solar flare (-508.6), epo on solar flare (-594.5), pbi
  on solar flare (-512.3), si on burgers (-55.3), loss_balanced on digits (-160.1), pbi on digits (-146.8), excess_mtl
  on digits in units (-268.5), gradvac on digits in units (-65.8), loss_balanced on digits in units (-369.1), moco on
  digits in units (-319.1), modo on digits in units (-473.2), pbi on digits in units (-39.4), random_weights on digits
  in units (-77.8), self_adaptive on digits in units (-38.6), softadapt on digits in units (-82.0), stch on digits in
  units (-64.0), gradnorm on helmholtz (-23.1)
- Behind the guard worse than without it, 1 of 302: epo on digits in units (+47.3)
- Behind the guard better than without it, not stopped, 13 of 302: krum on yeast (-14.9), cosmos on solar flare
  (-460.5), epo on solar flare (-999.7), pbi on solar flare (-945.7), upgrad on solar flare (-0.6), epo on visits
  (-2025.3), pbi on digits (-171.1), excess_mtl on digits in units (-189.4), loss_balanced on digits in units (-272.5),
  moco on digits in units (-622.8), modo on digits in units (-605.7), relobralo on digits in units (-21.9),
  loss_balanced on helmholtz (-2273.5)
- Behind the guard worse than without it, not stopped, 4 of 302: cosmos on burgers (+70.4), inverse_norm on burgers
  (+88.0), pbi on burgers (+55.4), epo on digits in units (+32.3)
- Failed to train: nobody

Outcome: the critics are right where tasks are alike. On yeast, solar flare, the digits and the two signals nobody is
better than weights tuned at the same cost, which for most are the best of one or two trials (on yeast, where many a
method costs ten plain steps and more, of ten and more), and on the digits all of them, tuned weights included, are
worse than two networks of the same size. Where the units of the losses differ by far (digits in units: gradients of 1
to 167) half of the catalogue is better than what one or two trials find, by tens to hundreds of per cent, and nobody is
better than all sixteen: a method that does not care about units saves a search, it does not replace it. What is not had
by weights is on Helmholtz' equation, where gradients differ and oppose each other: seven methods of equal or fair
shares (`imtl_g`, `conflict_free`, `dcgd`, `cagrad`, `inverse_norm`, `fairgrad`, `nash_mtl`) beat even the whole search,
at 1.1 to 1.2 plain steps each; MGDA, FAMO and the logarithms of the losses do not learn it. On Burgers' equation, in
this short training, nothing is surely better; the best, `modo`, sees two batches per step. For one task that counts the
differences are in the first decimal of a per cent: the auxiliaries neither help nor hurt there.

What the guard does to results: nothing that a test over ten seeds sees in 284 of 302 pairs; 17 methods are better
behind it, one worse. Fourteen of the 17 were worse than tuned weights without it: on digits in units the guard takes a
third to two thirds off the error of `loss_balanced`, `moco` and `modo`, and on solar flare `epo`, `pbi` and `cosmos`
come from 500 per cent to 10 to 18. It lifts six rows to better than tuned weights of the same budget and takes that
from one. It does not make the sum a method: on Helmholtz' equation and on digits in units the guarded sum stays where
the sum is. Where the last network is judged 13 are better and four worse, three of these on Burgers' equation. The
price is a stack of gradients for methods that need none, and otherwise little: .1 to 1.1 plain steps, five with
fourteen tasks.

What limits this: methods at their defaults, which are not meant for this where a method is drawn to equal losses rather
than low ones (`pbi`, `epo`, `cosmos`), follows one task at a time (`krum`), or is an optimiser itself and stands here
before another one (`momentum_conflict_free`, which takes one gradient per step and so cannot be guarded); small
networks and short runs; the rate is tuned for equal weights, and is the largest one tried on Burgers. A step of the
equations costs a method little more than a plain one, because the T backward passes share one program; that of yeast
shows what many tasks cost. Times contain what calling two programs per step takes, behind the guard three. On yeast all
methods agree within noise. `modo` and `sdmgrad` see a second batch. A correction for twice as many rows asks for more:
`modo` on Burgers' equation is level for it (p = .08). Data: for yeast no licence is stated where it was looked for, the
others are free (`problems.py`).
"""

"""The main job: the real program, its bad arguments, and how its data are made."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtlgrad_jax as mtl
from mtlgrad_jax.demo import command_line, cost, data, equation, methods, problems, report, training, two_digits

pytestmark = pytest.mark.standard_promotion


def run_python(*words, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", *words],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | environment,  # a user's
        timeout=300,
    )


def test_program_prints_a_table_and_saves_a_figure(tmp_path):
    out = tmp_path / "new" / "folder"
    words = ("--steps", "3", "--seed", "1", "--out", str(out))
    done = run_python("-m", "mtlgrad_jax", *words, COLUMNS="100", JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    assert done.returncode == 0, done.stderr
    (figure,) = out.iterdir()
    assert figure.name == "equation_nash_mtl_seed1.png"
    assert figure.read_bytes().startswith(b"\x89PNG") and figure.stat().st_size > 20_000
    assert str(figure) in done.stdout.replace("\n", "")
    for label, spread in (
        ("error of the solution", True),
        ("held-out loss, boundary", True),
        ("Pareto gap at the end", False),
        ("steps: u hurts a task", False),
        ("steps: step hurts a task", False),
        ("worst cosine of u", False),
        ("worst cosine of step", False),
        ("time, in plain steps", False),
    ):
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f" {label}")]
        cells = line.removeprefix(f" {label}").replace("±", " ").replace("%", " ").split()
        assert len(cells) == (8 if spread else 4) and np.all(np.isfinite([float(cell) for cell in cells])), line
    assert "Verdict, error of the solution: nash_mtl " in done.stdout
    assert done.stderr.count("3/3") >= 4 and "Traceback" not in done.stderr and "Warning" not in done.stderr


def test_bad_argument_ends_the_real_program_with_one_line_and_status_2(tmp_path):
    done = run_python("-m", "mtlgrad_jax", "--steps", "0", "--out", str(tmp_path))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "python -m mtlgrad_jax: error: argument --steps: expected a whole number from 1 to 10000000, got '0'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "-3"], "argument --steps: expected a whole number from 1"),
        (["--steps", "many"], "got 'many'"),
        (["--seed", "-1"], "argument --seed: expected a whole number from 0"),
        (["--problem", "easy"], "parallel"),
        (["--method", "nonsense"], "argument --method: unknown method 'nonsense'; choose from "),
        (["--method", "task_value_and_grad"], "unknown method"),
        (["--method", "aggregate"], "'aggregate' also needs weighting"),
        (["--out", "FILE/below"], "argument --out: cannot write"),
        (["--out", "figure.jpg"], "argument --out: expected a folder or a .png, .pdf, .svg file, got 'figure.jpg'"),
        (["--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_bad_arguments_get_one_clear_line(arguments, message, tmp_path, capsys):
    (tmp_path / "FILE").write_text("in the way")
    arguments = [word.replace("FILE", str(tmp_path / "FILE")) for word in arguments]
    with pytest.raises(SystemExit) as stop:
        command_line.main([*arguments] if "--out" in arguments else [*arguments, "--out", str(tmp_path)])
    printed = capsys.readouterr()
    assert stop.value.code == 2 and printed.out == ""
    assert message in printed.err and printed.err.count("\n") == 1 and printed.err.endswith("\n")


def test_unknown_method_lists_every_choice(capsys, tmp_path):
    with pytest.raises(SystemExit):
        command_line.main(["--method", "nonsense", "--out", str(tmp_path)])
    listed = capsys.readouterr().err.strip().split("choose from ")[1].split(", ")
    assert listed == methods.choices() and {"mgda", "primary_aux"} <= set(listed)


def test_a_method_that_fails_at_trace_time_gets_one_clear_line(monkeypatch, capsys, tmp_path):
    def picky(num_tasks=None):
        def refuse(gram):
            raise ValueError("expected five tasks,\ngot two.")

        return mtl.aggregate(refuse, num_tasks)

    monkeypatch.setattr(mtl, "mgda", picky)
    with pytest.raises(SystemExit) as stop:
        command_line.main(["--method", "mgda", "--steps", "1", "--out", str(tmp_path)])
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and printed.count("\n") == 1
    assert "argument --method" in printed and "expected five tasks, got two." in printed
    assert not any(tmp_path.iterdir())


def test_help_names_the_options_and_the_methods(capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    words = [*methods.DEFAULTS, "--method", "--problem", "--steps", "--seed", "--out", "mtl.task_value_and_grad"]
    assert all(word in text for word in words)
    assert all(name in text.replace("\n", "") for name in methods.choices())


def test_missing_extra_says_what_to_install_and_help_still_works(tmp_path):
    program = "import sys, runpy; sys.modules['sklearn'] = None; runpy.run_module('mtlgrad_jax', run_name='__main__')"
    done = run_python("-c", program, "--out", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "needs sklearn" in done.stderr
    assert 'in a checkout of mtlgrad_jax: pip install ".[demo]"' in done.stderr
    wrong = run_python("-c", program, "--out", str(tmp_path / "figure.jpg"))
    assert wrong.returncode == 2 and "argument --out" in wrong.stderr  # what the user typed comes first


def test_importing_the_package_imports_no_extra():
    extras = ("flax", "sklearn", "matplotlib", "tqdm", "rich", "mtlgrad_jax.demo")
    done = run_python("-c", f"import sys, mtlgrad_jax; print([n for n in {extras} if n in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("name", ["parallel", "primary", "noisy"])
def test_pairs_are_made_after_the_split(name):
    train, test = data.split_digits(3)
    everything = np.concatenate([train.identity, test.identity])
    assert len(set(everything)) == len(everything) == 1797

    sources, held_out = two_digits.sources_and_held_out(name, 3)
    assert set(held_out.identity.ravel()) == set(test.identity)
    for source in sources:
        assert set(source.identity.ravel()) <= set(train.identity)
    if name == "noisy":
        noisy, clean = (set(source.identity.ravel()) for source in sources)
        assert not noisy & clean


def test_a_canvas_shows_the_images_it_names():
    train, _ = data.split_digits(0)
    pairs = data.overlap(train, 50, np.random.default_rng(0))
    row_of = {identity: row for row, identity in enumerate(train.identity)}
    for canvas, labels, identity in zip(*pairs, strict=True):
        left, right = (row_of[one] for one in identity)
        np.testing.assert_array_equal(canvas[:, : data.SHIFT], train.images[left][:, : data.SHIFT])
        np.testing.assert_array_equal(canvas[:, data.SIDE :], train.images[right][:, data.SIDE - data.SHIFT :])
        assert (labels == train.labels[[left, right]]).all()


def test_the_noisy_source_has_wrong_labels_and_the_others_have_none():
    true = {}
    for digits in data.split_digits(5):
        true |= dict(zip(digits.identity.tolist(), digits.labels.tolist(), strict=True))
    (noisy, clean), held_out = two_digits.sources_and_held_out("noisy", 5)

    def wrong(pairs):
        return np.mean(np.vectorize(true.get)(pairs.identity) != pairs.labels)

    assert wrong(noisy) == pytest.approx(two_digits.WRONG_LABELS, abs=0.02)
    assert wrong(clean) == wrong(held_out) == 0


class Silent:
    def update(self, num_steps):
        pass


@pytest.fixture(scope="module")
def two_digits_trained():
    problem = problems.make("parallel", (0, 1))
    start = training.begin(problem, (0, 1))
    ready = training.prepare(problem, methods.Recipe(methods.make("mgda"), guarded=True), start, 60)
    return problem, start, ready, training.finish(problem, start, ready, 60, Silent())


def test_training_learns_and_no_direction_and_no_guarded_step_conflicts(two_digits_trained):
    *_, run = two_digits_trained
    assert run.losses.shape == run.errors.shape == (31, 2, 2) and run.checked_at[-1] == 60
    assert (run.losses[-1] < 0.9 * run.losses[0]).all() and (run.errors[-1] < run.errors[0]).all()
    assert not run.tally.hurt_by_direction.any() and not run.tally.hurt_by_step.any()
    assert run.tally.worst_of_step.min() > -1e-5 and (run.tally.opposed > 0).all()
    assert ((run.pareto_gap >= 0) & (run.pareto_gap <= 1)).all()


def test_runs_repeat_with_the_seed_and_differ_without_it(two_digits_trained):
    problem, start, ready, run = two_digits_trained
    again = ready.advance(ready.state, problem.data, 0, 2, True)
    np.testing.assert_array_equal(run.losses[1], start.judge(again.params, problem.data)[0])
    assert not np.array_equal(run.losses[1, 0], run.losses[1, 1])
    _, same = two_digits.sources_and_held_out("parallel", 1)
    np.testing.assert_array_equal(problem.data[1].canvases[1], same.canvases)
    assert set(problem.data[1].identity[0].ravel()) != set(same.identity.ravel())


def test_cost_measures_without_tallying(two_digits_trained):
    problem, start, ready, _ = two_digits_trained
    untallied = ready.advance(ready.state, problem.data, 0, 1, False)
    assert not untallied.tally.opposed.any() and (untallied.tally.worst_of_step == 1).all()
    (ratio,) = cost.in_plain_steps(problem, [ready], ready, 1)
    assert 0.2 < ratio < 5


def test_tally_agrees_with_numpy():
    rng = np.random.default_rng(0)
    tally, nothing = training.nothing_yet(), training.nothing_yet()
    least = {"worst_of_direction": [], "worst_of_step": []}
    opposed = 0
    for _ in range(5):
        rows, direction, updates = rng.normal(size=(2, 7)), rng.normal(size=7), rng.normal(size=7)
        rows, direction, updates = (one.astype(np.float32) for one in (rows, direction, updates))
        tally = training.count(
            tally, {"w": jnp.asarray(rows)}, {"w": jnp.asarray(direction)}, {"w": jnp.asarray(updates)}
        )
        for name, vector in (("worst_of_direction", direction), ("worst_of_step", -updates)):
            least[name].append(min(rows @ vector / np.linalg.norm(rows, axis=1) / np.linalg.norm(vector)))
        opposed += rows[0] @ rows[1] < 0
    assert tally.opposed == opposed
    assert tally.hurt_by_direction == np.sum(np.array(least["worst_of_direction"]) < 0)
    assert tally.hurt_by_step == np.sum(np.array(least["worst_of_step"]) < 0)
    for name, values in least.items():
        np.testing.assert_allclose(getattr(tally, name), min(values), atol=1e-6)
    idle = training.count(nothing, {"w": jnp.zeros((2, 7))}, {"w": jnp.zeros(7)}, {"w": jnp.zeros(7)})
    assert idle.opposed == idle.hurt_by_direction == idle.hurt_by_step == 0


def test_the_exact_solution_solves_the_equation_and_the_draws_lie_where_they_should():
    inside, boundary = equation.draw(jax.random.key(0), 200, 50)
    assert (jnp.abs(inside) <= 1).all() and (jnp.abs(boundary).max(axis=1) == 1).all()
    for side in ((0, -1), (0, 1), (1, -1), (1, 1)):
        assert jnp.sum(boundary[:, side[0]] == side[1]) == 50
    residual = equation.laplacian(equation.exact, inside) + equation.exact(inside) - equation.source(inside)
    assert jnp.abs(residual).max() < 1e-3 * jnp.abs(equation.source(inside)).max()
    assert jnp.abs(equation.exact(boundary)).max() < 1e-5


def _run_with(errors, shares=0.0):
    errors = np.array([np.ones_like(errors), errors])
    tally = training.Tally(*(np.full(3, value) for value in (0.25, shares, -shares, 2 * shares, -0.5)))
    return training.Run(np.arange(2), errors, errors, tally, np.full(3, 0.5), np.zeros((3, 8, 2)))


def test_table_and_verdict_follow_the_numbers():
    problem = problems.make("parallel", (0, 1, 2))
    weak = _run_with(np.array([[0.4, 0.20], [0.3, 0.21], [0.5, 0.22]]), 0.1)
    strong = _run_with(np.array([[0.1, 0.22], [0.1, 0.20], [0.1, 0.21]]))
    runs = {"sum": weak, "scaled sum": strong, "method": strong, "guarded method": strong}
    table = dict(report.rows(problem, runs, [1.5, 2.25]))
    assert table["misread, left digit"][:2] == ["40 ± 10 %", "10.00 ± 0.00 %"]
    assert table["steps: u hurts a task"][:2] == ["10.0%", "0.0%"]
    assert table["steps: step hurts a task"][:2] == ["20.0%", "0.0%"]
    assert table["worst cosine of u"][:2] == ["-0.100", "+0.000"]
    assert table["time, in plain steps"] == ["1", "1", "1.50", "2.25"]
    left, right = report.verdict(problem, runs).splitlines()
    assert "method 3.91 times less (3 to 5) than sum; method no clear difference (1 to 1 times less)" in left
    assert "no clear difference (0.909 to 1.05 times less) from sum" in right
    left, _ = report.verdict(problem, runs | {"sum": strong, "method": weak}).splitlines()
    assert "method 3.91 times more (3 to 5) than sum" in left


def test_every_exported_factory_is_a_choice_or_says_what_it_lacks():
    factories = methods.missing_arguments()
    assert factories["aggregate"] == ["weighting"]
    for name, missing in factories.items():
        if missing:
            with pytest.raises(methods.UnsuitableMethod, match=missing[0]):
                methods.make(name)
        else:
            methods.make(name).init({"w": jnp.zeros(3)})

"""The main job: the real program, its bad arguments, and how its data are made."""

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import mtlgrad_jax as mtl
from mtlgrad_jax.demo import command_line, data, methods, problems, report, training

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
    done = run_python(
        "-m",
        "mtlgrad_jax",
        "--problem",
        "noisy",
        "--steps",
        "3",
        "--seed",
        "1",
        "--out",
        str(out),
        COLUMNS="100",
        JAX_DISABLE_MOST_OPTIMIZATIONS="1",
    )
    assert done.returncode == 0, done.stderr
    (figure,) = out.iterdir()
    assert figure.name == "noisy_primary_aux_seed1.png"
    assert figure.read_bytes().startswith(b"\x89PNG") and figure.stat().st_size > 20_000
    assert str(figure) in done.stdout.replace("\n", "")
    for label in (
        "held-out loss, left digit",
        "held-out accuracy, right digit",
        "sum conflicted with noisy labels",
        "worst cosine, summed gradient",
        "worst cosine, direction taken",
        "Pareto gap at the end",
    ):
        (line,) = [line for line in done.stdout.splitlines() if label in line]
        cells = line.split()[-2:]
        assert all(np.isfinite(float(cell.rstrip("%"))) for cell in cells), line
    assert "Verdict:" in done.stdout
    assert "3/3" in done.stderr and "Traceback" not in done.stderr and "Warning" not in done.stderr


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
    assert 'pip install "mtlgrad_jax[demo]"' in done.stderr


def test_importing_the_package_imports_no_extra():
    extras = ("flax", "sklearn", "matplotlib", "tqdm", "rich", "mtlgrad_jax.demo")
    done = run_python("-c", f"import sys, mtlgrad_jax; print([n for n in {extras} if n in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("name", list(methods.DEFAULTS))
def test_pairs_are_made_after_the_split(name):
    train, test = data.split_digits(3)
    everything = np.concatenate([train.identity, test.identity])
    assert len(set(everything)) == len(everything) == 1797

    problem = problems.make(name, 3)
    held_out = set(problem.held_out.identity.ravel())
    assert held_out == set(test.identity)
    for source in problem.sources:
        assert set(source.identity.ravel()) <= set(train.identity)
    if name == "noisy":
        noisy, clean = (set(source.identity.ravel()) for source in problem.sources)
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
    problem = problems.make("noisy", 5)

    def wrong(pairs):
        return np.mean(np.vectorize(true.get)(pairs.identity) != pairs.labels)

    noisy, clean = problem.sources
    assert wrong(noisy) == pytest.approx(problems.WRONG_LABELS, abs=0.02)
    assert wrong(clean) == wrong(problem.held_out) == 0


@pytest.fixture(scope="module")
def trained():
    return training.train(problems.make("parallel", 0), methods.make("mgda"), num_steps=60, seed=0)


def test_training_learns_and_the_direction_never_conflicts(trained):
    assert (trained.held_out_losses[-1] < 0.9 * trained.held_out_losses[0]).all()
    assert trained.angles.direction.shape == (60, 2) and trained.angles.direction.min() > report.CONFLICT
    assert 0 <= trained.shortest <= trained.longest


def test_runs_repeat_with_the_seed_and_differ_without_it(trained):
    problem = problems.make("parallel", 0)
    again, other = (training.train(problem, methods.make("mgda"), num_steps=2, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(trained.held_out_losses[0], again.held_out_losses[0])
    np.testing.assert_array_equal(trained.angles.direction[:2], again.angles.direction)
    assert not np.array_equal(trained.angles.direction[:2], other.angles.direction)

    same, different = problems.make("parallel", 0), problems.make("parallel", 1)
    np.testing.assert_array_equal(problem.held_out.canvases, same.held_out.canvases)
    assert set(problem.held_out.identity.ravel()) != set(different.held_out.identity.ravel())


def test_angles_agree_with_numpy():
    rng = np.random.default_rng(0)
    rows, direction = rng.normal(size=(2, 7)).astype(np.float32), rng.normal(size=7).astype(np.float32)

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    found = training.angles({"w": jnp.asarray(rows)}, {"w": jnp.asarray(direction)})
    np.testing.assert_allclose(found.between_tasks, cosine(*rows), atol=1e-6)
    np.testing.assert_allclose(found.summed, [cosine(row, rows.sum(axis=0)) for row in rows], atol=1e-6)
    np.testing.assert_allclose(found.direction, [cosine(row, direction) for row in rows], atol=1e-6)
    assert not np.any(training.angles({"w": jnp.zeros((2, 7))}, {"w": jnp.zeros(7)}).summed)


def _run_with(hits, cosines):
    steps = np.asarray(cosines, np.float32)
    return training.Run(
        angles=training.Angles(between_tasks=steps.min(axis=1), summed=steps, direction=np.abs(steps)),
        checked_at=np.arange(2),
        held_out_losses=np.ones((2, 2)),
        hits=np.asarray(hits),
        shortest=0.25,
        longest=0.5,
    )


def test_table_and_verdict_follow_the_numbers():
    rng = np.random.default_rng(0)
    good, bad = rng.random((500, 2)) < 0.9, rng.random((500, 2)) < 0.6
    cosines = [[0.5, -0.5], [0.5, 0.1], [-1e-5, 0.1], [0.2, 0.3]]
    strong, weak = _run_with(good, cosines), _run_with(np.stack([bad[:, 0], good[:, 1]], axis=1), cosines)
    table = dict(report.rows({"sum": weak, "other": strong}, ("a", "b")))
    assert table["steps: sum conflicted with a"][0] == "0.0%"
    assert table["steps: sum conflicted with b"][0] == "25.0%"
    assert table["worst cosine, summed gradient with a task"][0] == "-0.500"
    assert table["  same / longest task gradient"][0] == "0.500"
    assert "left digit more" in report.verdict("other", weak, strong)
    assert "left digit fewer" in report.verdict("other", strong, weak)
    assert "right digit no clear difference (+0.0" in report.verdict("other", weak, strong)


def test_every_exported_factory_is_a_choice_or_says_what_it_lacks():
    factories = methods.missing_arguments()
    assert factories["aggregate"] == ["weighting"]
    for name, missing in factories.items():
        if missing:
            with pytest.raises(methods.UnsuitableMethod, match=missing[0]):
                methods.make(name)
        else:
            methods.make(name).init({"w": jnp.zeros(3)})

"""The example of the synthetic model: its table and its figure."""

import numpy as np

from keras_wake.theory import SyntheticModel


def test_prints_a_table_and_draws(examples, tmp_path, capsys):
    figure = tmp_path / "figures" / "synthetic.png"
    examples.synthetic.main(
        ["--points=1", "--samples=2000", f"--output={figure}"]
    )
    assert figure.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out.splitlines()
    assert "0.2179" in printed[1] and "0.2735" in printed[1]
    rows = [line.split() for line in printed]
    table = np.array([list(map(float, row)) for row in rows if len(row) == 7])
    np.testing.assert_allclose(table[:, 0], [0.25])
    model = SyntheticModel()
    for epsilon, *found in table:
        plain = model.optimal_weights(epsilon)[1]
        smoothed = model.optimal_weights(epsilon, 0.1)[1]
        # Four standard errors of 6000 samples, with σ = 1.
        np.testing.assert_allclose(
            found, [plain] * 3 + [smoothed] * 3, atol=4 / np.sqrt(6000)
        )
    # Trained on the samples of the Monte Carlo; four digits are printed.
    np.testing.assert_allclose(table[:, 2], table[:, 3], atol=2e-4)
    np.testing.assert_allclose(table[:, 5], table[:, 6], atol=2e-4)

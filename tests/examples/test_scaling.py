"""The cost model of data parallelism, against networks and sums by hand."""

import json
import math
import pathlib
import re

import keras
import numpy as np
import pytest
from small import output_of

import keras_wake as kw

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "scaling.py"
PAGE = ROOT / "docs" / "scaling.md"


@pytest.fixture(scope="module")
def scaling(load):
    return load("scaling")


@pytest.fixture
def computed(scaling):
    """Runs the model with flags."""

    def compute(*flags):
        return scaling.results(scaling.parse_args([str(f) for f in flags]))

    return compute


def macs_of(model):
    """Multiply-adds from the shapes that Keras has inferred."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            height, width = layer.output.shape[1:3]
            total += math.prod(layer.kernel.shape) * height * width
        elif isinstance(layer, keras.layers.Dense):
            total += math.prod(layer.kernel.shape)
    return total


def batch_norms(model):
    norm = keras.layers.BatchNormalization
    return [layer for layer in model.layers if isinstance(layer, norm)]


def test_preact_resnet18_is_that_of_the_library(scaling):
    counted = scaling.count("preact_resnet18")
    model = kw.models.PreActResNet18(10)
    trainable = sum(math.prod(v.shape) for v in model.trainable_variables)
    norms = [layer.gamma.shape[0] for layer in batch_norms(model)]
    assert counted.parameters == trainable
    # The others are the moving means and variances.
    assert model.count_params() == trainable + 2 * sum(norms)
    assert sorted(counted.norms) == sorted(norms)
    assert counted.macs == macs_of(model)


def test_wide_resnet34_10_by_hand(scaling):
    counted = scaling.count("wide_resnet34_10")
    # A stage of width w after c channels has five blocks of two convolutions
    # and a shortcut; all but the first convolution go from w to w.
    side, c, weights, macs, norms = 32, 16, 3 * 16 * 9, 3 * 16 * 9 * 32**2, 0
    for w, stride in ((160, 1), (320, 2), (640, 2)):
        side //= stride
        stage = 9 * c * w + 9 * 9 * w * w + c * w
        weights += stage
        macs += stage * side**2
        norms += c + 9 * w
        c = w
    norms += 640
    assert counted.parameters == weights + 2 * norms + 641 * 10 == 46_160_474
    assert counted.macs == macs + 6400
    assert sum(counted.norms) == norms
    assert len(counted.norms) == 31


def test_ring_tree_and_shared_link_by_hand(scaling):
    link = scaling.Link(bandwidth=100.0, latency=0.5)
    # Four members: 6 messages of a quarter of 200 bytes.
    assert link.ring(4, 200) == pytest.approx(6 * (50 / 100 + 0.5))
    # Five members: three levels, up and down.
    assert link.tree(5, 20) == pytest.approx(6 * (0.2 + 0.5))
    assert link.ring(1, 200) == link.tree(1, 20) == 0
    # Hosts share one link.
    outer = scaling.Link(bandwidth=10.0, latency=2.0)
    cluster = scaling.Cluster("both", 4, 2, link, outer)
    # 200 bytes: scatter and gather of 3 messages of 50 bytes each inside;
    # across, 4 devices exchange their 50 bytes in two halves at once.
    inside = 2 * 3 * (50 / 100 + 0.5)
    across = 2 * (4 * 25 / 10 + 2.0)
    assert cluster.all_reduce(200) == pytest.approx(inside + across)


def test_work_of_a_step(scaling, computed):
    (at,) = computed("--network", "preact_resnet18", "--utilisation", 0.5)
    (wake,) = computed("--network", "preact_resnet18", "--method", "wake")
    (clean,) = computed("--network", "preact_resnet18", "--pgd-steps", 0)
    passes = [work["forward_passes"] for work in (at, wake, clean)]
    assert passes == [23, 24, 3]
    macs = scaling.count("preact_resnet18").macs
    assert at["flops"] == 23 * 128 * 2 * macs
    assert at["compute_seconds"] == pytest.approx(at["flops"] / 78e12)
    assert at["backward_seconds"] == pytest.approx(
        at["compute_seconds"] * 2 / 23
    )


def test_efficiency_by_hand(computed):
    flags = (
        *("--network", "wide_resnet34_10", "--devices", 2),
        *("--nvlink-gbyte", 1, "--nvlink-us", 0, "--network-us", 0),
        *("--link-utilisation", 1, "--overlap", 0, 0.5, 1),
    )
    (work,) = computed(*flags)
    row = work["clusters"][0]
    # Two members send each other everything once: 4 bytes a parameter.
    seconds = 4 * 46_160_474 / 1e9
    assert row["links"] == "NVLink"
    assert row["sent_bytes"] == 4 * 46_160_474
    assert row["gradient_seconds"] == pytest.approx(seconds)
    compute, backward = work["compute_seconds"], work["backward_seconds"]
    assert seconds > backward
    for overlap, efficiency in row["efficiency"].items():
        spent = compute + seconds - float(overlap) * backward
        # Besides the gradients, three numbers of 4 bytes, there and back.
        assert efficiency == pytest.approx(
            compute / (spent + 3 * 2 * 4 / 1e9), rel=1e-12
        )
    # More overlap than needed hides everything.
    (work,) = computed(*flags, "--nvlink-gbyte", 1e6, "--overlap", 1)
    assert work["clusters"][0]["efficiency"]["1"] == pytest.approx(1)


def test_synchronised_batch_norm_by_hand(computed):
    flags = (
        *("--network", "preact_resnet18", "--devices", 8),
        *("--nvlink-us", 5, "--nvlink-gbyte", 1e9),
    )
    (apart,) = computed(*flags)
    (synchronised,) = computed(*flags, "--sync-batch-norm")
    difference = (
        synchronised["clusters"][0]["short_message_seconds"]
        - apart["clusters"][0]["short_message_seconds"]
    )
    # 17 layers, 3 sums forward and 3 back, 3 levels up and 3 down.
    assert difference == pytest.approx(17 * 6 * 6 * 5e-6, rel=1e-6)


def test_ways_to_join_devices(computed):
    (work,) = computed(
        "--network", "preact_resnet18", "--devices", 1, 8, 64, 512
    )
    joined = [
        (row["devices"], row["hosts"], row["links"]) for row in work["clusters"]
    ]
    assert joined == [
        (1, 1, "none"),
        (8, 1, "NVLink"),
        (8, 8, "100 Gb/s"),
        (64, 1, "NVLink"),
        (64, 8, "NVLink, 100 Gb/s"),
        (64, 64, "100 Gb/s"),
        (512, 1, "NVLink"),
        (512, 64, "NVLink, 100 Gb/s"),
        (512, 512, "100 Gb/s"),
    ]
    assert set(work["clusters"][0]["efficiency"].values()) == {1.0}


def test_bad_flags_are_refused(scaling, capsys):
    for flags, message in (
        (["--devices", "12"], "must be multiples of --devices-per-host (8)"),
        (["--overlap", "2"], "must be a number at least 0 and at most 1"),
        (["--devices", "8.5"], "must be a whole number at least 1"),
        (["--device-tflops", "inf"], "Received: 'inf'"),
        (["--utilisation", "0"], "Received: '0'"),
    ):
        with pytest.raises(SystemExit):
            scaling.parse_args(flags)
        assert message in capsys.readouterr().err


def run(*flags):
    """What the script prints, as a process that may import no framework."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = {['scaling.py', *flags]!r}\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "assert not {'keras', 'tensorflow', 'numpy'} & set(sys.modules)"
    )
    return output_of("-c", code)


def test_json_holds_settings_and_results(computed):
    printed = json.loads(run("--json", "--devices", "8"))
    assert printed["settings"]["device_tflops"] == 156.0
    assert printed["results"] == computed("--devices", "8")


def test_the_page_shows_what_the_script_prints():
    page = PAGE.read_text()
    networks, clusters = run().split("\n\n")
    assert networks.count("\n") == 3 and clusters.count("\n") == 18
    assert networks in page and clusters.strip() in page


def block_of_page(start):
    """The Python block of the page that starts with `start`, up to its use."""
    (block,) = re.findall(
        rf"^```python\n({re.escape(start)}.*?)^```$",
        PAGE.read_text(),
        re.M | re.S,
    )
    scope = {"keras": keras}
    exec(block.split("\n\n\n")[0], scope)
    return scope


def test_warm_up_of_the_page():
    schedule = block_of_page("class WarmUpThenSteps")["WarmUpThenSteps"](
        0.8, replicas=8, epochs=200, steps=48
    )
    rates = [float(schedule(48 * epoch)) for epoch in (0, 2.5, 5, 99, 100, 150)]
    np.testing.assert_allclose(
        rates, [0.1, 0.45, 0.8, 0.8, 0.08, 0.008], rtol=1e-5
    )
    assert float(schedule(48 * 100 - 1)) == pytest.approx(0.8)
    again = type(schedule).from_config(schedule.get_config())
    assert float(again(7)) == float(schedule(7))


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="Keras synchronises batch norm on TensorFlow only.",
)
def test_synchronised_copy_of_the_page():
    model = keras.models.clone_model(
        kw.models.SmallCNN(10),
        clone_function=block_of_page("def synchronised")["synchronised"],
    )
    norms = batch_norms(model)
    assert len(norms) == 5
    assert all(layer.synchronized for layer in norms)

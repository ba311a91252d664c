"""The benchmarks of training steps: what they count, and tiny runs of them."""

import json
import pathlib
import types

import keras
import numpy as np
import pytest
from small import output_of

import keras_wake as kw

FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"
GPU = FOLDER / "gpu.py"
BACKEND = keras.backend.backend()


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Where cores are busy, PyTorch's threads spend their time waiting."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def gpu(load):
    return load("gpu")


def resnet_flops(width):
    """Of PreActResNet-18 and one image of 32×32×3, written out."""
    products = 32 * 32 * 9 * 3 * width + 10 * 8 * width
    before = width
    for stage in range(4):
        channels, places = width * 2**stage, (32 >> stage) ** 2
        products += places * 9 * channels * (before + 3 * channels)
        if stage:
            products += places * before * channels
        before = channels
    return 2 * products


def test_flops_of_layers(load):
    network = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, strides=2, padding="same"),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    flops = load("_gpu_contenders").keras_forward_flops(network)
    assert flops == 2 * (16 * 9 * 3 * 4 + 4 * 10)


def test_flops_and_attacked_network_of_the_reference(load):
    torch = pytest.importorskip("torch")
    reference = load("_torch_reference")
    network = reference.PreActResNet18(4)
    assert reference.forward_flops(network) == resnet_flops(4)
    assert network.training
    # The attacked network follows the trained one.
    attacked = reference.for_attack(network)
    optimizer = reference.sgd(network)
    images = torch.rand(4, 3, 32, 32)
    before = attacked(images)
    network(images).sum().backward()
    optimizer.step()
    assert not attacked.training and not before.requires_grad
    assert network.training and network.conv1.weight.requires_grad
    after = attacked(images)
    assert not torch.equal(before, after)
    assert torch.equal(after, network.eval()(images))


@pytest.mark.parametrize(
    "name, bfloat16, float32",
    [
        ("NVIDIA H200", 989, 495),
        ("NVIDIA H100 80GB HBM3", 989, 495),
        ("NVIDIA H100 PCIe", 756, 378),
        ("NVIDIA A100-SXM4-80GB", 312, 156),
        ("NVIDIA L4", 121, 60),
        ("Tesla V100-SXM2-16GB", None, 15.7),
        ("CPU", None, None),
    ],
)
def test_peaks(gpu, name, bfloat16, float32):
    expected = {"bfloat16": bfloat16, "float32": float32}
    assert gpu.peak_tflops(name) == expected
    assert gpu.peak_tflops(name, [2, 1]) == {"bfloat16": 2, "float32": 1}


def measurement(contender, method, precision, seconds):
    return {
        "contender": contender,
        "method": method,
        "precision": precision,
        "network": "preact_resnet18",
        "batch": 100,
        "device": "NVIDIA H200",
        # Their median is `seconds`.
        "seconds_per_step": [9 * seconds, seconds, 0.0],
        "first_step_seconds": 9.0,
        "forward_flops": 10**9,
        "peak_bytes": 2**30,
        "idle": 0.25,
    }


def test_ratios_and_utilisation(gpu, capsys):
    failed = {
        "contender": "keras-torch",
        "method": "at",
        "precision": "float32",
        "network": "preact_resnet18",
        "batch": 100,
        "error": "lines\nOutOfMemoryError: too much",
    }
    record = {
        "setting": {"width": 64, "attack_steps": 10},
        "device": "NVIDIA H200",
        "measurements": [
            measurement("torch-eager", "at", "float32", 0.5),
            measurement("torch-compile", "at", "bfloat16", 0.25),
            measurement("keras-jax", "at", "bfloat16", 0.125),
            measurement("keras-jax", "wake", "bfloat16", 0.25),
            measurement("keras-jax", "standard", "bfloat16", 0.0625),
            measurement("torch-eager", "standard", "float32", 0.125),
            failed,
            measurement("keras-jax", "trades", "bfloat16", 0.5),
        ],
    }
    # The second is from another device, and no peer of what was measured here.
    record["measurements"][5]["device"] = "NVIDIA L4"
    gpu.summarise(record, {"bfloat16": 100.0, "float32": None})
    eager, compiled, at, wake, standard, *_ = record["measurements"]
    trades = record["measurements"][-1]
    assert eager["mfu"] is None
    assert at["images_per_second"] == 800
    # 23, 24, 3 and 27 forward passes of 100 images and 1 GFLOP; 100 TFLOP/s.
    for row, work in (
        (at, 2.3e12),
        (wake, 2.4e12),
        (standard, 0.3e12),
        (trades, 2.7e12),
    ):
        seconds = row["seconds_per_step"][1]
        assert row["mfu"] == pytest.approx(work / seconds / 1e14)
    assert at["ratios"] == {"torch-eager": 0.25, "torch-compile": 0.5}
    assert compiled["ratios"] == {"torch-eager": 0.5, "torch-compile": 1.0}
    assert wake["ratios"] == {"time of AT": 2.0}
    assert standard["ratios"] == {}

    gpu.show(record, {})
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| preact")]
    rows = [[cell.strip("| ") for cell in row] for row in rows]
    assert [row[2] for row in rows[:2]] == ["at", "at"]
    # Milliseconds, images, utilisation, the three ratios, idle, GiB, seconds.
    assert rows[2][3:] == (
        "keras-jax bfloat16 125.00 800 18.4% 0.25 0.50  25.0% 1.00 9.0"
    ).split(" ")
    failure = "- keras-torch at float32 preact_resnet18 100: OutOfMemoryError"
    assert f"{failure}: too much" in lines


@pytest.fixture
def measured(gpu, monkeypatch):
    """Stands in for the processes: what was asked, and what they answer."""
    measured = types.SimpleNamespace(asked=[], answers={})

    def measure(script, spec, variables, limit):
        measured.asked.append((spec["contender"], spec["batch"]))
        answer = measured.answers[spec["contender"]]
        return ([], answer) if isinstance(answer, str) else ([{**answer}], None)

    monkeypatch.setattr(gpu, "measure", measure)
    monkeypatch.setattr(gpu, "missing_package", lambda contender: None)
    return measured


def arguments(gpu, tmp_path, *more):
    output = f"--output={tmp_path / 'gpu.json'}"
    _, args = gpu.parse([output, "--tiny", "--methods", "at", *more])
    names = [f"preact_resnet18:{batch}" for batch in (8, 16)]
    args.workloads = args.workloads or [*map(gpu.workload, names)]
    return args


def test_the_most_important_come_first(gpu, tmp_path):
    _, args = gpu.parse([f"--output={tmp_path / 'gpu.json'}"])
    args.workloads = [*map(gpu.workload, gpu.WORKLOADS)]
    wanted = gpu.wanted(args)
    assert len(wanted) == 3 * 4 * 9 == len({gpu.key(m) for m in wanted})
    found = dict.fromkeys(
        (m["network"], m["batch"], m["method"]) for m in wanted
    )
    small, wide = "preact_resnet18", "wide_resnet28_10"
    assert list(found)[:6] == [
        (small, 128, "at"),
        (small, 128, "wake"),
        (wide, 128, "at"),
        (small, 128, "trades"),
        (wide, 128, "wake"),
        (small, 512, "at"),
    ]
    # Its peers are measured first, in the same run.
    contenders = list(dict.fromkeys(m["contender"] for m in wanted))
    assert contenders[:2] == ["torch-eager", "torch-compile"]
    # A repetition has at least ten steps.
    assert all(gpu.images_of(m) >= 10 * m["batch"] for m in wanted)


def test_unknown_workloads_are_refused(gpu, capsys):
    for name in ("preact_resnet18", "resnet50:128", "preact_resnet18:all"):
        with pytest.raises(SystemExit):
            gpu.parse(["--workloads", name])
        assert "invalid workload value" in capsys.readouterr().err


def test_the_share_of_time_without_work(load):
    idle_share = load("_gpu_trace").idle_share
    assert idle_share([]) is None
    assert idle_share([(5, 5)]) == 0.0
    # Overlapping streams, out of order; nothing runs from 4 to 6.
    assert idle_share([(6, 10), (0, 3), (2, 4), (7, 8)]) == 0.2


@pytest.mark.slow
def test_a_trace_of_this_backend(load):
    trace_of = load("_gpu_trace")
    trace = trace_of.Trace(BACKEND, trace_of.CPU)
    trace.start()
    total = keras.ops.ones((300, 300))
    for _ in range(3):
        total = keras.ops.matmul(total, total / 300.0)
    # Of 300 products in float32 each.
    assert float(keras.ops.sum(total)) == pytest.approx(9e4, rel=1e-4)
    assert 0.0 <= trace.idle_share() < 1.0
    # A machine without a GPU has no share.
    nothing = trace_of.Trace(BACKEND)
    nothing.start()
    keras.ops.convert_to_numpy(total + 1.0)
    assert nothing.idle_share() is None


def test_failures_are_recorded_and_the_rest_goes_on(gpu, measured, tmp_path):
    contenders = ("keras-torch", "torch-eager", "torch-compile")
    args = arguments(gpu, tmp_path, "--contenders", *contenders)
    record = gpu.new_record(args)
    measured.answers = {
        "keras-torch": {"error": "ImportError: no", "unavailable": True},
        "torch-eager": "Segmentation fault",
        "torch-compile": {"device": "here", "seconds_per_step": [1.0]},
    }
    assert gpu.measure_all(record, args)
    # A contender that is not there is tried once.
    tried = [(contender, 8) for contender in contenders]
    tried += [(contender, 16) for contender in contenders[1:]]
    assert measured.asked == tried
    written = json.loads(args.output.read_text())["measurements"]
    assert len(written) == 8
    errors = [m.get("error") for m in written if m["batch"] == 16]
    missing = "ImportError: no"
    assert errors == [missing, missing, "Segmentation fault", None]

    measured.asked.clear()
    assert gpu.measure_all(record, args)
    assert measured.asked == []
    args.retry_failed = True
    measured.answers["torch-eager"] = {"seconds_per_step": [1.0]}
    assert gpu.measure_all(record, args)
    tried = [("keras-torch", 8), ("torch-eager", 8), ("torch-eager", 16)]
    assert measured.asked == tried
    assert len(record["measurements"]) == 8
    assert sum("error" in m for m in record["measurements"]) == 4


def test_what_the_budget_ends_is_left_for_later(gpu, measured, tmp_path):
    args = arguments(gpu, tmp_path, "--contenders", "torch-eager")
    measured.answers["torch-eager"] = "timeout"
    record = gpu.new_record(args)
    args.budget_seconds, args.timeout = 100, 200
    assert not gpu.measure_all(record, args)
    assert record["measurements"] == []
    args.budget_seconds = 10
    measured.asked.clear()
    assert not gpu.measure_all(record, args)
    assert measured.asked == []
    # Its own limit is a result.
    args.budget_seconds, args.timeout = 1000, 200
    assert gpu.measure_all(record, args)
    errors = {m["error"] for m in record["measurements"]}
    assert errors == {"not finished after 200 s"}


@pytest.mark.slow
def test_gpu_runs(tmp_path):
    pytest.importorskip("torch")
    output = tmp_path / "gpu.json"
    common = ["--tiny", "--output", output, "--precisions", "float32"]
    keras_too = ["--contenders", "torch-eager", f"keras-{BACKEND}"]
    printed = output_of(GPU, *common, *keras_too, "--methods", "trades")
    record = json.loads(output.read_text())
    assert len(record["measurements"]) == 2
    for found in record["measurements"]:
        assert found.get("error") is None
        assert len(found["seconds_per_step"]) == 2
        assert found["forward_flops"] == resnet_flops(8)
        assert found["ratios"]["torch-eager"] > 0
        assert f"| {found['contender']}" in printed
    assert {"date", "command", "commit", "device", "versions"} < set(record)

    # What is there is kept.
    again = ["--resume", "--contenders", "torch-eager"]
    output_of(GPU, *common, *again, "--methods", "trades", "wake")
    there = json.loads(output.read_text())["measurements"]
    assert [(found["contender"], found["method"]) for found in there] == [
        ("torch-eager", "trades"),
        (f"keras-{BACKEND}", "trades"),
        ("torch-eager", "wake"),
    ]


@pytest.mark.slow
def test_gpu_runs_wide_networks(tmp_path):
    pytest.importorskip("torch")
    output = tmp_path / "gpu.json"
    output_of(
        *(GPU, "--tiny", "--output", output, "--methods", "at"),
        *("--contenders", "torch-eager", f"keras-{BACKEND}"),
        *("--workloads", "wide_resnet10_1:2", "--precisions", "float32"),
    )
    mine, other = json.loads(output.read_text())["measurements"]
    assert mine.get("error") is None and other.get("error") is None
    # Both networks are the same.
    assert mine["forward_flops"] == other["forward_flops"] > 0
    assert other["ratios"]["torch-eager"] > 0


def test_the_divergence_of_the_reference(load):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits, clean = rng.normal(size=(2, 4, 10)).astype("float32")
    found = load("_torch_reference").divergence(
        torch.tensor(logits), torch.tensor(clean)
    )
    expected = kw.losses.kl_divergence(clean, logits)
    expected = keras.ops.convert_to_numpy(expected).sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_gpu_refuses_a_cpu_unless_it_is_meant(load):
    require_device = load("_gpu_contenders").require_device
    if require_device(BACKEND, {"cpu": True}) != "CPU":
        pytest.skip("there is a GPU")
    with pytest.raises(ImportError, match=f"{BACKEND} sees no GPU"):
        require_device(BACKEND, {"cpu": False})


@pytest.mark.slow
def test_a_row_of_the_backends(load, capsys):
    backends = load("backends")
    setting = {"width": 8, "batch": 4, "attack_steps": 2, "steps": 1}
    compiled = BACKEND == "jax"
    row = {"backend": BACKEND, "jit": compiled, "unrolled": True}
    found = backends.measure_row(row, {**setting, "limit": 250.0})
    assert found["error"] is None
    assert len(found["steps"]) == 3
    assert found["seconds_per_step"] == found["steps"][2]
    late = backends.measure_row(row, {**setting, "limit": 0.25})
    assert late["error"] == "still compiling after 0.25 s"

    found["auto"], found["seconds_per_step"] = True, 0.5
    other = {**found, "auto": False, "seconds_per_step": 1.5}
    backends.show([{**found, "backend": "peer", "auto": None}, found, other])
    lines = capsys.readouterr().out.splitlines()[2:]
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in lines]
    assert [row[4] for row in cells] == ["", "1.00", "3.00"]
    assert [row[6] for row in cells] == ["", "**auto**", ""]
    assert len(backends.rows(["jax", "torch"])) == 9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch", "torch channels_last bfloat16"])
def test_the_reference_of_the_training_step(name):
    pytest.importorskip("torch")
    arguments = ["--contender", name, "--turns", "1"]
    arguments += ["--width", "4", "--batch", "4"]
    printed = output_of(FOLDER / "train_step.py", *arguments, input="\n")
    assert json.loads(printed)["seconds"] > 0

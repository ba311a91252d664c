"""The benchmarks of training steps: what they count, and tiny runs of them."""

import json
import pathlib
import types

import keras
import pytest
from small import output_of

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
        "batch": 100,
        "device": "NVIDIA H200",
        # Their median is `seconds`.
        "seconds_per_step": [9 * seconds, seconds, 0.0],
        "first_step_seconds": 9.0,
        "forward_flops": 10**9,
        "peak_bytes": None,
    }


def test_ratios_and_utilisation(gpu, capsys):
    failed = {
        "contender": "keras-torch",
        "method": "at",
        "precision": "float32",
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
        ],
    }
    # The second is from another device, and no peer of what was measured here.
    record["measurements"][5]["device"] = "NVIDIA L4"
    gpu.summarise(record, {"bfloat16": 100.0, "float32": None})
    eager, compiled, at, wake, standard, *_ = record["measurements"]
    assert eager["mfu"] is None
    assert at["images_per_second"] == 800
    # 23, 24 and 3 forward passes of 100 images and 1 GFLOP; 100 TFLOP/s.
    for row, work in ((at, 2.3e12), (wake, 2.4e12), (standard, 0.3e12)):
        seconds = row["seconds_per_step"][1]
        assert row["mfu"] == pytest.approx(work / seconds / 1e14)
    assert at["ratios"] == {"torch-eager": 4.0, "torch-compile": 2.0}
    assert compiled["ratios"] == {"torch-eager": 2.0, "torch-compile": 1.0}
    assert wake["ratios"] == {"time of AT": 2.0}
    assert standard["ratios"] == {}

    gpu.show(record, {})
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith("| 100")]
    assert [row[3] for row in rows[:2]] == ["at", "at"]
    assert "- keras-torch at float32 100: OutOfMemoryError: too much" in lines


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
    args.batches = args.batches or [8, 16]
    return args


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
    printed = output_of(GPU, *common, *keras_too, "--methods", "at")
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
    output_of(GPU, *common, *again, "--methods", "at", "wake")
    there = json.loads(output.read_text())["measurements"]
    assert [(found["contender"], found["method"]) for found in there] == [
        ("torch-eager", "at"),
        (f"keras-{BACKEND}", "at"),
        ("torch-eager", "wake"),
    ]


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
def test_the_reference_of_the_training_step():
    pytest.importorskip("torch")
    arguments = ["--contender", "torch", "--turns", "1"]
    printed = output_of(FOLDER / "train_step.py", *arguments, input="\n")
    assert json.loads(printed)["seconds"] > 0

"""One measurement of `gpu.py`, in a process of its own."""

import time
import traceback

import _gpu_trace
from _shared import EPSILON
from _shared import images
from _shared import report
from _shared import STEP_SIZE
from _shared import wake_model
from _shared import wide_sizes

# How many steps are traced, after those that are timed.
TRACED = 10


class Repetitions:
    """The seconds of a step in each repetition, and whether to go on."""

    def __init__(self, spec: dict) -> None:
        self.steps = spec["images"] // spec["batch"]
        self.wanted = spec["repetitions"]
        self.patience = spec["seconds"]
        self.seconds: list[float] = []

    def add(self, seconds: float) -> None:
        """Adds the seconds of a repetition."""
        self.seconds.append(seconds / self.steps)

    @property
    def enough(self) -> bool:
        """Whether there are as many as wanted, or three that took long."""
        late = self.steps * sum(self.seconds) > self.patience
        late = late and len(self.seconds) >= 3
        return late or len(self.seconds) >= self.wanted


def torch_network(spec: dict):
    """The network of a PyTorch contender."""
    import _torch_reference as reference

    if spec["network"] == "preact_resnet18":
        return reference.PreActResNet18(spec["width"])
    return reference.WideResNet(**wide_sizes(spec["network"]))


def torch_step(spec: dict, device: str):
    """The step of a PyTorch contender, `step(images, labels)`."""
    import _torch_reference as reference
    import torch
    from torch.nn import functional as F

    compiled = spec["contender"] != "torch-eager"
    wake, trades = spec["method"] == "wake", spec["method"] == "trades"
    network = torch_network(spec).to(device)
    options = {}
    if compiled:
        network = network.to(memory_format=torch.channels_last)
        options["fused"] = True
    optimizer = reference.sgd(network, **options)
    averaged = torch.optim.swa_utils.AveragedModel(
        network,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999),
        use_buffers=True,
    ).eval()
    attacked = reference.for_attack(network) if compiled else network

    def precision():
        return torch.autocast(device, torch.bfloat16, enabled=compiled)

    def attack_loss(images, target):
        with precision():
            logits = attacked(images)
            if trades:
                return reference.divergence(logits, target)
            return F.cross_entropy(logits, target, reduction="sum")

    def clean_logits(images):
        with torch.no_grad(), precision():
            return attacked(images)

    def training_loss(images, labels, clean):
        with precision():
            logits = network(images)
            loss = F.cross_entropy(logits, labels)
            if wake:
                with torch.no_grad():
                    teacher = averaged.module(images)
                loss = 0.5 * (loss + reference.distillation(logits, teacher))
            if trades:
                natural = network(clean)
                divergence = reference.divergence(logits, natural)
                loss = F.cross_entropy(natural, labels)
                loss = loss + 6.0 * divergence / len(labels)
        return loss, (logits.argmax(1) == labels).sum()

    ascend = reference.ascend
    if compiled:
        mode = None
        if spec["contender"] == "torch-compile-graphs":
            mode = "reduce-overhead"
        attack_loss = torch.compile(attack_loss, dynamic=False, mode=mode)
        clean_logits = torch.compile(clean_logits, dynamic=False, mode=mode)
        training_loss = torch.compile(training_loss, dynamic=False, mode=mode)
        ascend = torch.compile(ascend, dynamic=False)

    network.train()

    def attack(clean, labels):
        if not compiled:
            network.eval()
        # A copy, as CUDA graphs write their results to the same memory.
        target = clean_logits(clean).clone() if trades else labels
        adversarial = reference.pgd(
            attack_loss,
            clean,
            target,
            EPSILON,
            STEP_SIZE,
            spec["attack_steps"],
            ascend,
        )
        if not compiled:
            network.train()
        return adversarial

    def step(clean, labels):
        trained = clean
        if spec["method"] != "standard":
            trained = attack(clean, labels)
        optimizer.zero_grad()
        loss, hits = training_loss(trained, labels, clean)
        loss.backward()
        optimizer.step()
        if wake:
            averaged.update_parameters(network)
        return torch.stack([loss.detach(), hits])

    return step, network, reference.forward_flops


def run_torch(spec: dict) -> None:
    """Measures a PyTorch contender."""
    import torch

    name = require_device("torch", spec)
    device = "cpu" if name == "CPU" else "cuda"
    # Tuned scripts do so if shapes do not change.
    torch.backends.cudnn.benchmark = True
    step, network, forward_flops = torch_step(spec, device)
    layout = torch.contiguous_format
    if spec["contender"] != "torch-eager":
        layout = torch.channels_last
    x, y = images(spec["images"])
    x = torch.tensor(x).permute(0, 3, 1, 2).to(device).contiguous()
    x, y = x.contiguous(memory_format=layout), torch.tensor(y).to(device)

    repetitions = Repetitions(spec)

    def repetition(steps):
        """Seconds of a number of steps."""
        begin = time.perf_counter()
        seen = torch.zeros(2, device=device)
        order = torch.randperm(len(x), device=device).split(spec["batch"])
        for batch in order[:steps]:
            seen += step(x[batch], y[batch])
        seen.tolist()
        wait()
        return time.perf_counter() - begin

    first = repetition(1)
    repetition(repetitions.steps)
    while not repetitions.enough:
        repetitions.add(repetition(repetitions.steps))
    peak = peak_bytes("torch")
    trace = _gpu_trace.Trace("torch")
    trace.start()
    repetition(min(TRACED, repetitions.steps))
    report(
        device=name,
        seconds_per_step=repetitions.seconds,
        first_step_seconds=first,
        forward_flops=forward_flops(network),
        peak_bytes=peak,
        idle=trace.idle_share(),
    )


def run_keras(spec: dict) -> None:
    """Measures `WakeModel.fit` on the backend of this process."""
    import keras

    backend = keras.backend.backend()
    name = require_device(backend, spec)
    if spec["precision"] == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    repetitions = Repetitions(spec)

    def wait_for(model):
        # A step changes it last.
        for network in (model.teacher, model.classifier):
            keras.ops.convert_to_numpy(network.variables[-1])
        if backend == "torch":
            wait()

    # No hook for batches: Keras would wait for each.
    class Clock(keras.callbacks.Callback):
        """Times the epochs, the first of which warms up."""

        def on_epoch_begin(self, epoch, logs=None):
            self.begin = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            wait_for(self.model)
            if epoch:
                repetitions.add(time.perf_counter() - self.begin)
            self.model.stop_training = repetitions.enough

    class Tracer(keras.callbacks.Callback):
        """Traces the second epoch."""

        def on_epoch_begin(self, epoch, logs=None):
            if epoch:
                trace.start()

        def on_epoch_end(self, epoch, logs=None):
            wait_for(self.model)

    model, callbacks = wake_model(
        spec["method"],
        spec["width"],
        spec["attack_steps"],
        network=spec["network"],
    )
    flops = keras_forward_flops(model.classifier)
    x, y = images(repetitions.steps * spec["batch"])
    y = y.astype("int32")

    def fit(steps, epochs, *more):
        """Trains on so many batches, several times."""
        count = steps * spec["batch"]
        model.fit(
            x[:count],
            y[:count],
            batch_size=spec["batch"],
            epochs=epochs,
            verbose=0,
            callbacks=[*callbacks, *more],
        )

    begin = time.perf_counter()
    fit(1, 1)
    wait_for(model)
    first = time.perf_counter() - begin
    fit(repetitions.steps, repetitions.wanted + 1, Clock())
    peak = peak_bytes(backend)
    trace = _gpu_trace.Trace(backend)
    fit(min(TRACED, repetitions.steps), 2, Tracer())
    report(
        device=name,
        seconds_per_step=repetitions.seconds,
        first_step_seconds=first,
        forward_flops=flops,
        peak_bytes=peak,
        idle=trace.idle_share(),
    )


def keras_forward_flops(classifier) -> int:
    """Of one image: 2 × the multiplications of convolutions and layers."""
    import keras

    total = 0
    for layer in classifier.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            weights = 1
            for size in layer.kernel.shape:
                weights *= size
            places = 1
            for size in layer.output.shape[1:-1]:
                places *= size
            total += 2 * weights * places
    return total


def wait() -> None:
    """Waits until the GPU has finished PyTorch's work."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def require_device(framework: str, spec: dict) -> str:
    """The name of the framework's GPU; `"CPU"` if that is allowed."""
    name = None
    if framework == "torch":
        import torch

        if torch.cuda.is_available():
            name = torch.cuda.get_device_name()
    elif framework == "jax":
        import jax

        if jax.default_backend() == "gpu":
            name = jax.devices()[0].device_kind
    else:
        import tensorflow as tf

        devices = tf.config.list_physical_devices("GPU")
        if devices:
            details = tf.config.experimental.get_device_details(devices[0])
            name = details.get("device_name", "GPU")
    if name is None and not spec["cpu"]:
        raise ImportError(f"{framework} sees no GPU")
    return name or "CPU"


def peak_bytes(framework: str) -> int | None:
    """Peak of the GPU memory for arrays; without that of the libraries."""
    if framework == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
    elif framework == "jax":
        import jax

        stats = jax.devices()[0].memory_stats() or {}
        return stats.get("peak_bytes_in_use")
    else:
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return None


def run_measurement(spec: dict) -> None:
    """The entry point of a process."""
    try:
        keras = spec["contender"].startswith("keras")
        (run_keras if keras else run_torch)(spec)
    except Exception as error:
        traceback.print_exc()
        report(
            error=f"{type(error).__name__}: {error}"[:500],
            # Trying this contender again would not help.
            unavailable=isinstance(error, ImportError),
        )

"""A model of the communication of data-parallel adversarial training.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --device-tflops 989 --network-gbit 400

It only computes: it measures nothing, imports no framework, and prints the same
numbers for the same flags. Parameters and multiply-adds are counted layer by
layer. The speeds of devices and links are assumptions, which are flags. The
defaults describe NVIDIA A100 (SXM): 156 TFLOP/s in TF32, which TensorFlow uses
there for float32, and 300 GB/s of NVLink in each direction. `docs/scaling.md`
explains the results.

The step. The unit is a forward pass. A backward pass costs one unit for the
gradient of the input and one for that of the weights. So a step with PGD-k
costs 2 k for the attack, which needs no gradient of the weights, and 3 for the
update; the teacher of WAKE adds 1. Only the backward pass of the update, 2
units, makes the gradients that are sent, so communication can run only beside
it.

The links. Gradients go around a ring. With several devices in a host there are
two rings: each device sums an equal part of the gradients with its peers in
other hosts, and all parts share the host's one link. Short messages go up and
down a binary tree.
"""

import argparse
import dataclasses
import json
import math

# Padded 3x3 convolutions; stem, widths and strides of the stages, and blocks
# in each. Both networks are made of the same pre-activation blocks.
NETWORKS = {
    "preact_resnet18": (64, (64, 128, 256, 512), (1, 2, 2, 2), 2),
    "wide_resnet34_10": (16, (160, 320, 640), (1, 2, 2), 5),
}
FLOAT = 4  # bytes
# The loss adds up two numbers over all replicas: images and regularisers.
# After the step, the counts of faults in the data are read, in one piece.
SHORT_MESSAGES = 3
# Keras's synchronised batch norm on TensorFlow sums three values for each
# channel (sum, sum of squares, count), and their gradients on the way back.
NORM_MESSAGES = 6


@dataclasses.dataclass
class Network:
    """What a network costs, counted while its layers are named.

    Attributes:
        parameters: Number of trainable ones.
        macs: Multiply-adds of a forward pass for one image. Normalisation,
            activations and additions are not counted: they are bound by
            memory, and belong to what keeps a device below its peak.
        norms: Channels of each batch-norm layer.
    """

    parameters: int = 0
    macs: int = 0
    norms: list[int] = dataclasses.field(default_factory=list)

    def conv(self, inputs: int, outputs: int, kernel: int, side: int) -> None:
        """A convolution without bias; `side` is that of its output."""
        weights = kernel * kernel * inputs * outputs
        self.parameters += weights
        self.macs += weights * side * side

    def norm(self, channels: int) -> None:
        """Batch normalisation with scale and offset."""
        self.parameters += 2 * channels
        self.norms.append(channels)

    def dense(self, inputs: int, outputs: int) -> None:
        """A linear layer with bias."""
        self.parameters += (inputs + 1) * outputs
        self.macs += inputs * outputs


def count(name: str, classes: int = 10, side: int = 32) -> Network:
    """Counts one of `NETWORKS` on square RGB images."""
    channels, widths, strides, blocks = NETWORKS[name]
    network = Network()
    network.conv(3, channels, 3, side)
    for width, first_stride in zip(widths, strides, strict=True):
        for stride in (first_stride, *[1] * (blocks - 1)):
            side //= stride
            network.norm(channels)
            network.conv(channels, width, 3, side)
            network.norm(width)
            network.conv(width, width, 3, side)
            if stride != 1 or channels != width:
                network.conv(channels, width, 1, side)
            channels = width
    network.norm(channels)
    network.dense(channels, classes)
    return network


@dataclasses.dataclass(frozen=True)
class Link:
    """What joins two devices or two hosts, in each direction.

    Attributes:
        bandwidth: Bytes in a second, as reached.
        latency: Seconds for each message.
    """

    bandwidth: float
    latency: float

    def ring(self, members: int, size: float) -> float:
        """Seconds to sum `size` bytes over the members of a ring."""
        hops = 2 * (members - 1)
        return hops / members * size / self.bandwidth + hops * self.latency

    def tree(self, members: int, size: float) -> float:
        """Seconds to sum a short message up and down a binary tree."""
        depth = math.ceil(math.log2(members))
        return 2 * depth * (size / self.bandwidth + self.latency)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Equal hosts of equal devices.

    Attributes:
        name: What the links are, for the table.
        inside: Number of devices in a host.
        hosts: Number of hosts.
        device_link: Between the devices of a host.
        host_link: Between hosts; all devices of a host share it.
    """

    name: str
    inside: int
    hosts: int
    device_link: Link
    host_link: Link

    def all_reduce(self, size: float) -> float:
        """Seconds for gradients: reduce-scatter, ring of hosts, gather.

        Each device takes 1 / `inside` of the bytes across, and all of them
        do so at once, so that the host's link carries the whole.
        """
        return self.device_link.ring(self.inside, size) + self.host_link.ring(
            self.hosts, size
        )

    def short_message(self, size: float) -> float:
        """Seconds for a few numbers."""
        return self.device_link.tree(self.inside, size) + self.host_link.tree(
            self.hosts, size
        )


def clusters(args: argparse.Namespace) -> list[Cluster]:
    """The ways to join each number of devices."""
    reached = args.link_utilisation
    nvlink = Link(1e9 * args.nvlink_gbyte * reached, 1e-6 * args.nvlink_us)
    network = Link(
        1e9 / 8 * args.network_gbit * reached, 1e-6 * args.network_us
    )
    ethernet = f"{args.network_gbit:g} Gb/s"
    found = []
    for devices in args.devices:
        inside = args.devices_per_host
        shapes = [("NVLink", devices, 1), (ethernet, 1, devices)]
        if devices > inside > 1:
            if devices % inside:
                raise ValueError(
                    "--devices must be multiples of --devices-per-host "
                    f"({inside}), or fewer. Received: {devices}."
                )
            both = f"NVLink, {ethernet}"
            shapes.insert(1, (both, inside, devices // inside))
        if devices == 1:
            shapes = [("none", 1, 1)]
        found += [Cluster(*shape, nvlink, network) for shape in shapes]
    return found


def step(network: Network, args: argparse.Namespace) -> dict[str, float]:
    """Work of one device in one step."""
    passes = 2 * args.pgd_steps + 3 + (args.method == "wake")
    forward = 2 * network.macs * args.per_device_batch
    reached = 1e12 * args.device_tflops * args.utilisation
    return {
        "parameters": network.parameters,
        "forward_flops_per_image": 2 * network.macs,
        "forward_passes": passes,
        "flops": passes * forward,
        "compute_seconds": passes * forward / reached,
        "backward_seconds": 2 * forward / reached,
        "gradient_bytes": args.bytes_per_gradient * network.parameters,
    }


def scaled(
    network: Network,
    work: dict[str, float],
    cluster: Cluster,
    args: argparse.Namespace,
) -> dict[str, object]:
    """One step on a cluster: seconds, and efficiency for each overlap."""
    devices = cluster.inside * cluster.hosts
    gradients = cluster.all_reduce(work["gradient_bytes"])
    short = SHORT_MESSAGES * cluster.short_message(FLOAT)
    if args.sync_batch_norm:
        short += NORM_MESSAGES * sum(
            cluster.short_message(FLOAT * channels)
            for channels in network.norms
        )
    efficiency = {}
    for overlap in args.overlap:
        hidden = min(gradients, overlap * work["backward_seconds"])
        spent = work["compute_seconds"] + gradients - hidden + short
        efficiency[f"{overlap:g}"] = work["compute_seconds"] / spent
    return {
        "devices": devices,
        "hosts": cluster.hosts,
        "links": cluster.name,
        "sent_bytes": 2 * (devices - 1) / devices * work["gradient_bytes"],
        "gradient_seconds": gradients,
        "short_message_seconds": short,
        "efficiency": efficiency,
    }


def results(args: argparse.Namespace) -> list[dict[str, object]]:
    """For each network the work of a step, and its rows of the table."""
    found = []
    for name in args.network:
        network = count(name)
        work = step(network, args)
        rows = [scaled(network, work, c, args) for c in clusters(args)]
        found.append({"network": name, **work, "clusters": rows})
    return found


def tables(found: list[dict[str, object]], args: argparse.Namespace) -> str:
    """Both tables in Markdown."""
    lines = [
        "| network | parameters | forward pass of an image | step | "
        "gradients | compute |",
        "|---|---|---|---|---|---|",
    ]
    for work in found:
        lines.append(
            f"| {work['network']} | {work['parameters']:,} | "
            f"{work['forward_flops_per_image'] / 1e9:.2f} GFLOP | "
            f"{work['forward_passes']} passes, "
            f"{work['flops'] / 1e12:.2f} TFLOP | "
            f"{work['gradient_bytes'] / 1e6:.1f} MB | "
            f"{1e3 * work['compute_seconds']:.1f} ms |"
        )
    efficiencies = [f"efficiency, overlap {o:g}" for o in args.overlap]
    headings = ["network", "devices", "hosts", "links", "sent by a device"]
    headings += ["gradients", "short messages", *efficiencies]
    lines += ["", f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for work in found:
        for row in work["clusters"]:
            cells = [
                work["network"],
                str(row["devices"]),
                str(row["hosts"]),
                row["links"],
                f"{row['sent_bytes'] / 1e6:.1f} MB",
                f"{1e3 * row['gradient_seconds']:.2f} ms",
                f"{1e3 * row['short_message_seconds']:.2f} ms",
                *[f"{100 * e:.1f} %" for e in row["efficiency"].values()],
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def number(low: float, high: float = math.inf, kind: type = float):
    """A converter to a finite number from `low` to `high`."""

    def convert(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or value == math.inf:
            limits = f"at least {low:g}"
            limits += "" if high == math.inf else f" and at most {high:g}"
            raise argparse.ArgumentTypeError(
                f"must be a {'whole ' * (kind is int)}number {limits}. "
                f"Received: {text!r}."
            )
        return value

    return convert


def parse_args(argv=None) -> argparse.Namespace:
    """The flags, all of them assumptions."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    size, some = number(1, kind=int), number(1e-9)
    share, any_time = number(1e-9, 1), number(0)
    # fmt: off
    add("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS),
        help="on images of 32 x 32")
    add("--method", choices=("at", "wake"), default="at", help="wake adds the "
        "teacher's forward pass")
    add("--per-device-batch", type=size, default=128, help="images")
    add("--pgd-steps", type=number(0, kind=int), default=10, help="k")
    add("--device-tflops", type=some, default=156.0, help="peak of a device; "
        "A100 in TF32")
    add("--utilisation", type=share, default=0.3, help="what of the peak is "
        "reached")
    add("--bytes-per-gradient", type=some, default=4.0, help="2 where they "
        "are sent in half precision")
    add("--devices", nargs="+", type=size, default=[8, 64, 512],
        help="numbers of devices")
    add("--devices-per-host", type=size, default=8, help="with NVLink between "
        "them and one link to other hosts")
    add("--nvlink-gbyte", type=some, default=300.0, help="GB/s in each "
        "direction; third generation")
    add("--nvlink-us", type=any_time, default=5.0, help="latency of a message "
        "in microseconds")
    add("--network-gbit", type=some, default=100.0, help="Gb/s of a host, in "
        "each direction")
    add("--network-us", type=any_time, default=20.0, help="latency of a "
        "message between hosts in microseconds")
    add("--link-utilisation", type=share, default=0.8, help="what of a link's "
        "bandwidth is reached")
    add("--overlap", nargs="+", type=number(0, 1), default=[0.0, 1.0],
        help="parts of the update's backward pass that communication may hide "
        "behind")
    add("--sync-batch-norm", action="store_true", help="statistics over all "
        "devices")
    add("--json", action="store_true", help="print JSON, with the flags, in "
        "place of tables")
    # fmt: on
    args = parser.parse_args(argv)
    try:
        clusters(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def main(argv=None) -> None:
    """Prints the tables, or all numbers as JSON."""
    args = parse_args(argv)
    found = results(args)
    if args.json:
        settings = {k: v for k, v in vars(args).items() if k != "json"}
        print(json.dumps({"settings": settings, "results": found}, indent=2))
    else:
        print(tables(found, args))


if __name__ == "__main__":
    main()

"""What is done to each page of the site when it is built.

MkDocs calls `on_page_content` (`hooks` in mkdocs.yml). Formulas, which the
extension arithmatex has marked, become MathML, which browsers draw themselves:
no script and no font has to be loaded. Names of Keras and TensorFlow become
links to their documentation, and those of keras_wake to the reference.
"""

import html
import re

import latex2mathml.converter

FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S
)
NAME = re.compile(
    r"(<a\b[^>]*>)?<code>((?:keras|keras_wake|tf)\.[\w.]+)(\([^<]*)?</code>"
)
TRAINING = "models/model_training_apis"
SAVING = "models/model_saving_apis/model_saving_and_loading"
# Where a name of Keras is described: the page below keras.io/api. A name that
# is not here goes to the page of the module or class that it belongs to.
PAGES = {
    "keras.Model": "models/model",
    **{
        f"keras.Model.{method}": TRAINING
        for method in (
            "compile",
            "fit",
            "evaluate",
            "predict",
            "train_on_batch",
            "test_on_batch",
        )
    },
    "keras.Model.save": SAVING,
    "keras.Model.save_weights": (
        "models/model_saving_apis/weights_saving_and_loading"
    ),
    "keras.models.load_model": SAVING,
    "keras.saving.load_model": SAVING,
    "keras.models.clone_model": (
        "models/model_saving_apis/model_config_serialization"
    ),
    "keras.Input": "layers/core_layers/input",
    "keras.layers": "layers",
    "keras.layers.Dense": "layers/core_layers/dense",
    "keras.applications": "applications",
    "keras.callbacks": "callbacks",
    "keras.callbacks.BackupAndRestore": "callbacks/backup_and_restore",
    "keras.callbacks.CSVLogger": "callbacks/csv_logger",
    "keras.callbacks.EarlyStopping": "callbacks/early_stopping",
    "keras.callbacks.ModelCheckpoint": "callbacks/model_checkpoint",
    "keras.callbacks.TensorBoard": "callbacks/tensorboard",
    "keras.config": "utils/config_utils",
    "keras.distribution": "distribution",
    "keras.distribution.DataParallel": "distribution/data_parallel",
    "keras.distribution.initialize": "distribution/distribution_utils",
    "keras.losses": "losses",
    "keras.ops": "ops",
    "keras.optimizers": "optimizers",
    "keras.random": "random",
    "keras.random.SeedGenerator": "random/seed_generator",
    "keras.utils": "utils",
    "keras.utils.PyDataset": "utils/python_utils",
    "keras.utils.set_random_seed": "utils/python_utils",
}


def mathml(match: re.Match) -> str:
    """The MathML of a formula in TeX."""
    kind, tex = match.groups()
    display = "inline" if kind == "span" else "block"
    return latex2mathml.converter.convert(html.unescape(tex), display=display)


def address(name: str) -> str | None:
    """Where a name of Keras or TensorFlow is described, or None."""
    if name.startswith("tf."):
        path = name.removeprefix("tf.").replace(".", "/")
        return f"https://www.tensorflow.org/api_docs/python/tf/{path}"
    while name:
        if name in PAGES:
            return f"https://keras.io/api/{PAGES[name]}/"
        name = name.rpartition(".")[0]
    return None


def link(match: re.Match) -> str:
    """A name in code as a link, unless it is one."""
    anchor, name, _ = match.groups()
    if name.startswith("keras_wake.") and not anchor:
        # mkdocs-autorefs makes a link of it where the reference has the name.
        return f'<autoref identifier="{name}" optional>{match[0]}</autoref>'
    where = address(name)
    if anchor or where is None:
        return match[0]
    return f'<a href="{where}">{match[0]}</a>'


def on_page_content(content: str, **_: object) -> str:
    """Called by MkDocs with the HTML of a page's text."""
    return NAME.sub(link, FORMULA.sub(mathml, content))

"""The two figures of a class report."""

import dataclasses

import numpy as np
import pytest
from figure_texts import texts

from keras_wake.attribution.report import Example
from keras_wake.attribution.report import SharedPair
from keras_wake.visualization import plot_class_report
from keras_wake.visualization import plot_shared_pairs

NAMES = ["cat", "dog", "ship"]


def examples(count, shape=(4, 4, 3), value=0.5):
    return [
        Example(i, np.zeros(shape), np.full(shape, value)) for i in range(count)
    ]


def test_shows_accuracies_confusion_and_correlation(make_report):
    report = make_report(names=NAMES)
    above, left, right = plot_class_report(report).axes[:3]
    clean, robust = above.collections[1:]
    # The robust ones are on top, and do not cover the clean ones.
    assert robust.get_sizes() < clean.get_sizes()
    np.testing.assert_allclose(robust.get_offsets()[:, 1], [0.7, 0.9, 1.0])
    np.testing.assert_allclose(clean.get_offsets()[:, 1], 1)
    assert "robust, 86.7 % over all samples" == robust.get_label()
    assert "clean, 100.0 % over all samples" == clean.get_label()
    (shown,) = left.images
    np.testing.assert_allclose(shown.get_array(), report.confusion / 10)
    # The colours are for what is off the diagonal.
    assert shown.get_clim() == (0.0, 0.3)
    assert left.get_title() == "confusion under attack"
    (shown,) = right.images
    np.testing.assert_array_equal(shown.get_array(), report.correlation)
    assert shown.get_clim() == (0.0, 1.0)
    assert right.get_title() == "correlation under attack, CAS 1.2"
    for panel in (above, left, right):
        assert texts(panel.get_xticklabels()) == NAMES


def test_report_of_clean_images(make_report):
    above, left, right = plot_class_report(make_report(attack=None)).axes[:3]
    assert len(above.collections) == 1
    assert left.get_title() == "confusion on clean images"
    assert right.get_title().startswith("correlation on clean images")


def test_class_without_samples_is_hatched(make_report):
    report = make_report()
    report.clean_accuracy[2] = report.robust_accuracy[2] = np.nan
    report.counts[2] = 0
    report.confusion[2] = 0
    report.correlation[2] = report.correlation[:, 2] = np.nan
    left, right = plot_class_report(report).axes[1:3]
    assert "no samples of 2" in left.get_xlabel()
    assert np.ma.getmaskarray(left.images[0].get_array())[2].all()
    assert "no attribution (NaN) for 2" in right.get_xlabel()


@pytest.mark.parametrize("classes", [10, 200])
def test_many_classes_are_thinned(classes, tmp_path, make_report):
    names = [f"class {i:03d}" for i in range(classes)]
    path = tmp_path / "report.png"
    figure = plot_class_report(make_report(classes, names=names), path=path)
    above, *maps = figure.axes[:3]
    assert 5 <= len(above.get_xticklabels()) <= 30
    for panel in maps:
        assert 5 <= len(panel.get_xticklabels()) <= 20
        assert bool(panel.texts) == (classes == 10)
    assert path.stat().st_size < 1e6


def headings(figure):
    """The lines above the images, row by row."""
    return [half.get_suptitle() for half in figure.subfigs]


def test_pairs_show_what_the_classifier_saw(make_report):
    near = [dataclasses.replace(e, nearest=True) for e in examples(2)]
    pairs = [
        SharedPair((0, 1), 0.6, (3, 0), (examples(3), [])),
        SharedPair((1, 2), 0.0, (1, 0), (examples(1), near)),
    ]
    report = make_report(names=NAMES, pairs=pairs)
    figure = plot_shared_pairs(report)
    assert headings(figure) == [
        "cosine 0.60    cat → dog: 3 of 10",
        "dog → cat: 0 of 10",
        "cosine 0.00    dog → ship: 1 of 10",
        "ship → dog: 0 of 10, nearest",
    ]
    shown = [panel.images[0] for panel in figure.axes if panel.images]
    assert len(shown) == 6
    for image in shown:
        np.testing.assert_array_equal(image.get_array(), 0.5)
    words = [word for panel in figure.axes for word in texts(panel.texts)]
    assert words == ["no example"]
    assert len(headings(plot_shared_pairs(report, pairs=1))) == 2


def test_pairs_of_grey_images_beyond_the_unit_interval(make_report):
    part = [examples(1, (4, 4, 1), value)[0] for value in (-1.0, 0.0, 3.0)]
    report = make_report(pairs=[SharedPair((0, 1), 0.6, (3, 0), (part, []))])
    figure = plot_shared_pairs(report)
    shown = [p.images[0].get_array() for p in figure.axes if p.images]
    assert [float(image.mean()) for image in shown] == [0.0, 0.25, 1.0]
    assert shown[0].shape == (4, 4)


def test_refuses_what_cannot_be_drawn(make_report):
    for plot in (plot_class_report, plot_shared_pairs):
        with pytest.raises(TypeError, match=r"class_report.*Received: dict"):
            plot({})
    with pytest.raises(ValueError, match="no example images"):
        plot_shared_pairs(make_report())
    pair = SharedPair((0, 1), 0.6, (1, 0), (examples(1, (7,)), []))
    with pytest.raises(ValueError, match=r"\(H, W, C\).*shape \(7,\)"):
        plot_shared_pairs(make_report(pairs=[pair]))
    with pytest.raises(ValueError, match="`pairs` must be at least 1"):
        plot_shared_pairs(make_report(pairs=[pair]), pairs=0)

"""What is written in a figure."""


def texts(artists):
    """The words of tick labels, of a legend and the like."""
    return [artist.get_text() for artist in artists]

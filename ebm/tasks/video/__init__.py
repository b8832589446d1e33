"""Tasks of video: the next frame's features."""

"""Tasks of images: photographs without their noise."""

"""Picture files: a picture is read with all that belongs to it, and written back so."""

from ebm.tasks.images.files.formats import format_of
from ebm.tasks.images.files.picture import Picture, as_bytes
from ebm.tasks.images.files.reading import PictureFile, open_pictures
from ebm.tasks.images.files.writing import lost, write_pictures

__all__ = ["Picture", "PictureFile", "as_bytes", "format_of", "lost", "open_pictures", "write_pictures"]

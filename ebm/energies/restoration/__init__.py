"""Energies that restore pictures: convolutional networks, of any size of picture and any noise."""

"""What the toolkit offers, by name: a file for each kind, none of which imports what it names.

Importing what it names takes torch, and its seconds; a list of names needs neither.
"""

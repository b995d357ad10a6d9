"""The thin package behind the course "From Spikes to Silicon".

A package imports only from the floors below it: data, lab, models, the chapters in course order, reports.
Nothing is imported here, so that `import helpers` costs nothing.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The clone that this package is used from: notebooks/, course/ and data/ lie there."""

"""The shop's own tests: of its transforms and models, on a few rows."""

from contracts import project

project.load(project.DEFAULT)  # so that tests may import its modules

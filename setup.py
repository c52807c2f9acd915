"""The list of packages. Everything else is in pyproject.toml, whose ``packages.find`` can't map callbacks/."""

from setuptools import find_packages, setup

callbacks = ["callbacks", *(f"callbacks.{name}" for name in find_packages("callbacks"))]
setup(
    packages=[*find_packages(include=["trackrec", "trackrec.*"]), *(f"trackrec.{name}" for name in callbacks)],
    package_dir={"trackrec.callbacks": "callbacks"},
)

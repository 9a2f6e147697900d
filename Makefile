# scd: `make demo` shows it at work, `make test` passes its tests. Both make what they need first.

VENV := .venv
OLDEST := .venv-oldest
OLDEST_SILICONCOMPILER := 0.37.12
BIN := $(VENV)/bin

.PHONY: help demo test test-local test-slurm test-fast lint bench load slurm faults faults-sample security deb \
    install-test deb-requirements clean system

help:
	@echo "make demo    run a real flow through a private scd, and show what came back"
	@echo "make test    all tests: unit, integration, and acceptance with the real client"
	@echo "make lint    formatting, lint, types and layers"
	@echo "make security  hostile archives and 100,000 hostile requests (some minutes; REQUESTS=, ARCHIVES=, SEED=)"
	@echo "make bench   measure against SiliconCompiler's own server (some minutes)"
	@echo "make slurm   nodes on a private Slurm cluster: all tests, and what it costs (half an hour, as root)"
	@echo "make load    measure polls beside slow connections, a large upload and large manifests (some minutes; LOAD='--help')"
	@echo "make faults  inject faults into a real daemon and count what comes of it (an hour; FAULTS='--row 1 --times 50')"
	@echo "make deb     build the Debian package into dist/"
	@echo "make install-test  install it into a clean system, boot that, upgrade, purge, run a gateway with Slurm (as root); and pip install"
	@echo "make clean   remove what these made"

demo: $(VENV)/ready
	@$(BIN)/scd-demo

# They mostly wait for processes: `make -j3 -Otarget test` runs them side by side.
test: test-fast test-local test-slurm

test-local: $(VENV)/ready $(OLDEST)/ready
	@SCD_TEST_OLDEST=$(abspath $(OLDEST)/bin/python) $(BIN)/python -m pytest tests/security tests/integration tests/acceptance

test-slurm: $(VENV)/ready
	@$(BIN)/python -m pytest tests/slurm

test-fast: $(VENV)/ready
	@$(BIN)/python -m pytest tests/unit

lint: $(VENV)/ready
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

bench: $(VENV)/ready
	@$(BIN)/pip install -q -e '.[bench]'
	@$(BIN)/python -m tests.bench.run

# With those that wait for Slurm's own minutes, and all flows.
slurm: $(VENV)/ready
	@SCD_TEST_SLOW=1 $(BIN)/python -m pytest tests/slurm
	@$(BIN)/python -m tests.slurm.bench

load: $(VENV)/ready
	@$(BIN)/python -m tests.bench.load $(LOAD)

faults: $(VENV)/ready
	@$(BIN)/python -m tests.faults $(FAULTS)

# What the gate affords: each fault a few times.
faults-sample: $(VENV)/ready
	@$(BIN)/python -m tests.faults --sample $(FAULTS)

# ARCHIVES is the number of each shape.
REQUESTS := 100000
ARCHIVES := 60
SEED := 1
security: $(VENV)/ready
	@$(BIN)/python -m tests.security.run --requests $(REQUESTS) --archives $(ARCHIVES) --seed $(SEED)

# In a copy, since Debian's tools write beside the source. The system's programs, not those of a virtual environment.
DEB := dist/scd_$(shell sed -n '1s/.*(\(.*\)).*/\1/p' debian/changelog)_$(shell dpkg --print-architecture 2>/dev/null).deb
deb:
	@command -v dh >/dev/null || { echo "make deb needs debhelper: apt-get install debhelper python3-venv"; exit 1; }
	@rm -rf build/deb
	@mkdir -p build/deb/scd dist
	@tar -c --exclude='./.*' --exclude=./build --exclude=./dist --exclude=__pycache__ . | tar -x -C build/deb/scd
	@cd build/deb/scd && PATH=/usr/sbin:/usr/bin:/sbin:/bin \
	    dpkg-buildpackage --build=binary --no-sign --no-check-builddeps >../log 2>&1 || { cat ../log; exit 1; }
	@cp build/deb/*.deb dist/
	@! command -v lintian >/dev/null || lintian --allow-root --fail-on error,warning $(DEB)
	@echo $(DEB)

install-test: $(VENV)/ready deb
	@SCD_TEST_DEB=$(abspath $(DEB)) $(BIN)/python -m pytest tests/package

# What the Debian package holds of others.
deb-requirements: $(VENV)/ready
	@$(BIN)/pip install -q uv
	@mkdir -p build
	@{ echo "# What scd's Debian package holds of others, by digests: see README.source. Made by \`make deb-requirements\`."; \
	   $(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --extra keys --extra pam --generate-hashes \
	       --no-annotate --no-header pyproject.toml; } >build/requirements.txt
	@mv build/requirements.txt debian/requirements.txt

clean:
	rm -rf $(VENV) $(OLDEST) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# Debian's and Ubuntu's packages: installed by root, named to others.
system:
	@sh tests/system-packages

$(VENV)/ready: pyproject.toml tests/system-packages
	@$(MAKE) --no-print-directory system
	@sh tests/make-venv $(VENV)
	@echo "Installing scd, SiliconCompiler and the test tools into $(VENV) ..."
	@$(BIN)/pip install -q -e '.[runtime,test]'
	@touch $@

$(OLDEST)/ready: Makefile tests/make-venv
	@sh tests/make-venv $(OLDEST)
	@echo "Installing the oldest supported SiliconCompiler, $(OLDEST_SILICONCOMPILER), into $(OLDEST) ..."
	@$(OLDEST)/bin/pip install -q siliconcompiler==$(OLDEST_SILICONCOMPILER)
	@touch $@

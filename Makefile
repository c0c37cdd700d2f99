# engramd's control panel. `make` prints what it can do.
#
#   SAN=address,undefined | thread    sanitizer build, in its own folder
#   STAY=1                            `make demo` leaves the daemon running
#   V=1                               show every command
#   DEVELOPER=1                       warnings are errors

.DEFAULT_GOAL := help
ifndef V
.SILENT:
endif
SHELL := /bin/bash
VERSION := $(shell cat VERSION)
BUILD ?= build$(if $(SAN),/san-$(subst $(comma),-,$(SAN)))
comma := ,
CC ?= cc
CACHE ?= .cache
PYTHON ?= /usr/bin/python3

PACKAGES := build-essential pkg-config git ca-certificates curl unzip python3 python3-pip \
    python3-pytest python3-numpy libmicrohttpd-dev libcjson-dev libopenblas-dev libsqlite3-dev \
    libuv1-dev libpcre2-dev libutf8proc-dev libssl-dev zlib1g-dev libcmocka-dev
FOLDERS := core probes edits ledger server

# ---- flags ------------------------------------------------------------------------------------
WARN := -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wdouble-promotion \
    -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition -Wwrite-strings -Wcast-qual \
    -Wpointer-arith -Wno-psabi -Wvla -Wundef -fno-common -Werror=implicit-function-declaration \
    $(if $(DEVELOPER),-Werror)
OPT ?= $(if $(SAN),-O1,-O3) -g
HARDEN := $(if $(SAN),,-D_FORTIFY_SOURCE=2 -fstack-protector-strong)
CFLAGS_ALL = -std=gnu11 $(OPT) $(WARN) $(HARDEN) -fPIE -fno-math-errno -pthread -I. -I$(BUILD)/gen \
    -D_GNU_SOURCE -DENGRAM_VERSION='"$(VERSION)"' \
    $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all -DENGRAM_SANITIZED=1) $(CFLAGS)
LDFLAGS_ALL = -pie -pthread $(if $(SAN),-fsanitize=$(SAN)) $(LDFLAGS)
LIBS := -lmicrohttpd -lcjson -lopenblas -lsqlite3 -luv -lpcre2-8 -lutf8proc -lcrypto -lz -lm

# A change of flags rebuilds: the stamp changes only when the flags do.
STAMP := $(BUILD)/flags.stamp
$(shell mkdir -p $(BUILD)/gen; echo '$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL)' | cmp -s - $(STAMP) || echo '$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL)' > $(STAMP))

# ---- sources ----------------------------------------------------------------------------------
SRC := $(foreach d,$(FOLDERS),$(wildcard $(d)/*.c $(d)/*/*.c))
MAIN := server/main.c
OBJ = $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(MAIN),$(SRC)))
LIBS_OWN := $(foreach d,server edits probes ledger core,$(BUILD)/lib$(d).a)
UNIT := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(wildcard tests/unit/test_*.c))
UNIT_SUPPORT := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/unit/support/*.c))
LINK_OWN = -Wl,--start-group $(LIBS_OWN) -Wl,--end-group $(LIBS)
JOBS := $(shell nproc 2>/dev/null || echo 2)
MODEL = $$(tools/model.sh $(CACHE))

##@ Build
help: ## this list
	@awk 'BEGIN{FS=":.*## "} /^##@/{printf "\n%s\n",substr($$0,5)} /^[a-z][a-zA-Z_-]*:.*## /{printf "  make %-14s %s\n",$$1,$$2}' $(MAKEFILE_LIST)

deps: ## install what the build needs with the distribution's package manager
	@tools/deps.sh $(PACKAGES)

build: $(BUILD)/engramd ## build/engramd

units: $(UNIT) ## the unit tests' programs, in build/unit

clean: ## remove build/
	rm -rf build

##@ Use
model: ## fetch and check the default model; prints its path last
	@tools/model.sh $(CACHE)

demo: deps ## the whole story on the default model; STAY=1 leaves the daemon running
	@$(MAKE) --no-print-directory -j$(JOBS) build
	@model=$(MODEL) && $(PYTHON) tools/demo.py $(BUILD)/engramd "$$model" $(if $(STAY),--stay)

##@ Prove
test: deps ## all tests; ONLY='unit api …' picks suites, the last line is the sum
	@$(PYTHON) tools/run_tests.py --cache $(CACHE) --make $(MAKE) $(ONLY)

layers: $(LIBS_OWN) ## who includes whom, headers that stand alone, what the engine may not call
	@tools/layers.sh $(BUILD)

parity: deps ## live comparison with reference implementations
	@$(MAKE) --no-print-directory -j$(JOBS) build $(BUILD)/tokenize $(BUILD)/render
	@model=$(MODEL) && tests/parity/run.sh $(CACHE) "$$model" $(BUILD)/engramd

mutants: ## deliberate faults, one at a time: each must turn its test red
	@$(PYTHON) tools/mutants.py --make $(MAKE)

fuzz: ## libFuzzer (clang) on every reader, or T=config|gguf|json|sae|safetensors|template|tokenizer alone; TIME=60 each
	@tools/fuzz.sh "$(T)" "$(or $(TIME),60)"

bench: deps ## the numbers to reach, each beside its bound
	@$(MAKE) --no-print-directory -j$(JOBS) build $(BUILD)/bench_engine $(BUILD)/bench_matrix \
	    $(BUILD)/bench_tokenizer $(BUILD)/bench_tuco $(BUILD)/bench_grid $(BUILD)/bench_attribution
	@model=$(MODEL) && $(BUILD)/bench_matrix && $(BUILD)/bench_engine "$$model" && $(BUILD)/bench_tuco "$$model" && \
	    $(BUILD)/bench_attribution "$$model" && \
	    if [ -x $(CACHE)/parity/bin/python ]; then $(CACHE)/parity/bin/python bench/rival_transformers.py "$$model" && \
        $(CACHE)/parity/bin/python bench/rival_llama.py $(BUILD)/bench_engine "$$model" 2>/dev/null && \
	        $(CACHE)/parity/bin/python bench/bench_tokenizer.py $(BUILD)/bench_tokenizer "$$model" \
	            $(wildcard $(CACHE)/vocab/models/ggml-vocab-llama-spm.gguf); \
	    else echo "(make parity first: then transformers, llama.cpp and tokenizers are timed beside this)"; fi && \
	    if [ -x $(CACHE)/parity-tl/bin/python ]; then $(CACHE)/parity-tl/bin/python bench/rival_grids.py $(BUILD)/bench_grid "$$model"; \
	    else echo "(make parity first: then TransformerLens and nnsight are timed beside this)"; fi && \
	    $(PYTHON) bench/bench_memory_grid.py $(BUILD)/engramd "$$model" && \
	    $(PYTHON) bench/bench_http.py $(BUILD)/engramd "$$model"

fresh-check: ## demo and test from a clone in a new minimal Debian 12 (root)
	@tools/fresh_check.sh

# ---- rules ------------------------------------------------------------------------------------
$(BUILD)/engramd: $(BUILD)/server/main.o $(LIBS_OWN)
	@echo "  LINK  $@"
	$(CC) $(LDFLAGS_ALL) -o $@ $< $(LINK_OWN)

$(BUILD)/unit/%: $(BUILD)/tests/unit/%.o $(UNIT_SUPPORT) $(LIBS_OWN)
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(CC) $(LDFLAGS_ALL) -o $@ $< $(UNIT_SUPPORT) $(LINK_OWN) -lcmocka

$(BUILD)/bench_%: $(BUILD)/bench/bench_%.o $(LIBS_OWN)
	@echo "  LINK  $@"
	$(CC) $(LDFLAGS_ALL) -o $@ $< $(LINK_OWN)

$(BUILD)/tokenize $(BUILD)/render: $(BUILD)/%: $(BUILD)/tests/tools/%_main.o $(BUILD)/libcore.a
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

define library
$(BUILD)/lib$(1).a: $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(MAIN),$(wildcard $(1)/*.c $(1)/*/*.c))) $(if $(filter $(1),ledger server),$(BUILD)/gen-$(1).o)
	@rm -f $$@
	@ar rcs $$@ $$^
endef
$(foreach d,$(FOLDERS),$(eval $(call library,$(d))))

$(BUILD)/%.o: %.c $(STAMP) | generated
	@mkdir -p $(dir $@)
	@echo "  CC    $@"
	$(CC) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

# Bytes of a delta may not depend on the compiler's taste for fused multiply-add.
$(BUILD)/core/delta_apply.o: CFLAGS_ALL += -ffp-contract=off

-include $(wildcard $(BUILD)/*/*.d $(BUILD)/*/*/*.d $(BUILD)/tests/unit/support/*.d)
.SECONDARY:

include schema/generate.mk
-include ledger/embed.mk

.PHONY: help deps build units clean model demo test layers parity mutants fuzz bench fresh-check generated

# Tests and benches of the cuda plane, end to end: tests/gpu/e2e. Included by kernels/cuda.mk.
#
# They load the CUDA driver at run time, so they build without CUDA and run against the stand-ins of tests/fake too;
# only the decode-like load of the interference bench has kernels of its own, and a pause in their place.

E2E_SRC := $(wildcard tests/gpu/e2e/*.c)
E2E_MAIN_SRC := $(wildcard tests/gpu/e2e/test_*.c tests/gpu/e2e/bench_plane.c tests/gpu/e2e/bench_gpus.c)
E2E_STEP_SRC := $(wildcard tests/gpu/e2e/bench_step.c tests/gpu/e2e/step_*.c)
E2E_OBJ := $(call objs,$(filter-out $(E2E_MAIN_SRC) $(E2E_STEP_SRC),$(E2E_SRC)))
E2E_MAIN_BIN := $(patsubst tests/gpu/e2e/%.c,$(BIN)/tests/gpu/%,$(E2E_MAIN_SRC))
E2E_STEP_OBJ := $(call objs,tests/gpu/e2e/bench_step.c) $(E2E_OBJ)
E2E_LIBS = $(DAEMON_LIBS) $(CLIENT_LIBS) $(CLI_LIBS) $(TEST_LIBS) -lm -ldl

$(call objs,$(E2E_SRC)): | $(GEN_H)

$(E2E_MAIN_BIN): $(BIN)/tests/gpu/%: $(OBJ)/tests/gpu/e2e/%.o $(E2E_OBJ) $(ALL_A)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(E2E_LIBS) -o $@

$(BIN)/tests/gpu/bench_step_fake: $(E2E_STEP_OBJ) $(OBJ)/tests/gpu/e2e/step_fake.o $(ALL_A)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(E2E_LIBS) -o $@

$(BIN)/tests/gpu/bench_step: $(E2E_STEP_OBJ) $(OBJ)/tests/gpu/e2e/step_cuda.cu.o $(ALL_A)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(NVCC) -arch=sm_$(CUDA_ARCH) -cudart static $^ $(E2E_LIBS) -lpthread -o $@

E2E_BIN := $(E2E_MAIN_BIN) $(BIN)/tests/gpu/bench_step_fake $(if $(filter $(DEFAULT_VARIANT),$(VARIANT)),$(if $(HAVE_CUDA),$(BIN)/tests/gpu/bench_step))
tests: $(E2E_BIN)

.PHONY: e2e
e2e: all $(E2E_BIN)

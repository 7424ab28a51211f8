# Tests and benches of the cuda plane, end to end: tests/gpu/e2e. Included by kernels/cuda.mk.
#
# They load the CUDA driver at run time, so they build without CUDA and run against the stand-ins of tests/fake too;
# only the decode-like load of the interference bench has kernels of its own.

E2E_SRC := $(wildcard tests/gpu/e2e/*.c)
E2E_TEST_SRC := $(filter tests/gpu/e2e/test_%,$(E2E_SRC))
E2E_BENCH_SRC := $(filter tests/gpu/e2e/bench_%,$(E2E_SRC))
E2E_OBJ := $(call objs,$(filter-out $(E2E_TEST_SRC) $(E2E_BENCH_SRC),$(E2E_SRC)))
E2E_BIN := $(patsubst tests/gpu/e2e/%.c,$(BIN)/tests/gpu/%,$(E2E_TEST_SRC) $(E2E_BENCH_SRC))

$(call objs,$(E2E_SRC)): | $(GEN_H)

$(E2E_BIN): $(BIN)/tests/gpu/%: $(OBJ)/tests/gpu/e2e/%.o $(E2E_OBJ) $(ALL_A)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(DAEMON_LIBS) $(CLIENT_LIBS) $(CLI_LIBS) $(TEST_LIBS) -lm -ldl -o $@

tests: $(E2E_BIN)

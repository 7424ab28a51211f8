# kvcellar. `make help` lists the targets.
#
# Objects go to build/<variant>/obj; the default variant leaves programs in build/bin and the library in
# build/lib, others in build/<variant>/bin and lib. Sources are found by folder: a new file needs no change here.

VERSION := 0.1.0
SOVERSION := 0

# make's own default is cc, which is the same compiler under another name: everything would be built again.
ifeq ($(origin CC),default)
CC := gcc
endif
SAN ?=
OPT ?= -O2
V ?=
PREFIX ?= /usr/local
DESTDIR ?=
SYSTEMD_DIR ?= $(PREFIX)/lib/systemd/system
SYSCONF_DIR ?= $(if $(filter /usr,$(PREFIX)),/etc,$(PREFIX)/etc)

CC_NAME := $(if $(findstring clang,$(CC)),clang,gcc)
VARIANT := $(CC_NAME)$(if $(SAN),-$(SAN))$(if $(FUZZ),-fuzz)
DEFAULT_VARIANT := gcc
B := build/$(VARIANT)
OUT := $(if $(filter $(DEFAULT_VARIANT),$(VARIANT)),build,$(B))
BIN := $(OUT)/bin
LIB := $(OUT)/lib
OBJ := $(B)/obj
GEN := build/gen

Q := $(if $(V),,@)
say = $(if $(V),,@echo '  $(1)' '$(2)')

# --- dependencies -----------------------------------------------------------------------------

DAEMON_PKGS := libuv liburing libprotobuf-c libxxhash libsodium libcrypto inih libsystemd
CLIENT_PKGS := libprotobuf-c libxxhash
CLI_PKGS := jansson smartcols libsodium
TEST_PKGS := cmocka

# Goals that install or remove things must not ask for libraries that are not there yet.
ifneq ($(filter-out deps clean help demo test cuda test-gpu bench-gpu,$(or $(MAKECMDGOALS),all)),)
PKGS := $(sort $(DAEMON_PKGS) $(CLIENT_PKGS) $(CLI_PKGS))
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS))
DAEMON_LIBS := $(shell pkg-config --libs $(DAEMON_PKGS))
CLIENT_LIBS := $(shell pkg-config --libs $(CLIENT_PKGS))
CLI_LIBS := $(shell pkg-config --libs $(CLI_PKGS))
TEST_LIBS := $(shell pkg-config --libs $(TEST_PKGS))
endif

# --- flags ------------------------------------------------------------------------------------

WARN := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla \
        -Wpointer-arith -Wcast-qual -Wwrite-strings -Wundef -Werror
CFLAGS_ALL := -std=c11 -g $(OPT) $(WARN) -fno-strict-aliasing -ffp-contract=off -fno-common \
              -fvisibility=hidden -fstack-protector-strong -pthread
CPPFLAGS_ALL := -D_GNU_SOURCE -DKVCELLAR_VERSION='"$(VERSION)"' -I. -Iproto -Iclient -I$(GEN) $(PKG_CFLAGS)
LDFLAGS_ALL := -pthread -Wl,-z,relro,-z,now
ifeq ($(SAN),address)
CFLAGS_ALL += -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
LDFLAGS_ALL += -fsanitize=address,undefined
else ifeq ($(SAN),thread)
CFLAGS_ALL += -fsanitize=thread -fno-omit-frame-pointer
LDFLAGS_ALL += -fsanitize=thread
else ifneq ($(SAN),)
$(error SAN is address or thread, not '$(SAN)')
else
CPPFLAGS_ALL += -D_FORTIFY_SOURCE=2
endif
ifdef FUZZ
CFLAGS_ALL += -fsanitize=fuzzer-no-link
endif

# One translation unit a SIMD level, chosen at run time.
$(OBJ)/%_avx2.o $(OBJ)/%_avx2.pic.o: SIMD_FLAGS := -mavx2 -mf16c -mfma
$(OBJ)/%_avx512.o $(OBJ)/%_avx512.pic.o: SIMD_FLAGS := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mf16c -mfma
$(OBJ)/kernels/%.o: CFLAGS_ALL += -O3
$(OBJ)/proto/kvcellar.pb-c.o $(OBJ)/proto/kvcellar.pb-c.pic.o: CFLAGS_ALL += -w

# --- sources ----------------------------------------------------------------------------------

KERNEL_SRC := $(wildcard kernels/*.c)
PROTO_SRC := $(wildcard proto/*.c) $(GEN)/proto/kvcellar.pb-c.c
DAEMON_SRC := $(filter-out daemon/main/% daemon/gpu/%,$(wildcard daemon/*/*.c))
MAIN_SRC := $(wildcard daemon/main/*.c)
CLIENT_SRC := $(wildcard client/*.c)
CLI_SRC := $(wildcard client/cli/*.c)
TEST_SUPPORT_SRC := $(wildcard tests/support/*.c)

objs = $(patsubst %.c,$(OBJ)/%.o,$(patsubst $(GEN)/%,%,$(1)))
KERNEL_OBJ := $(call objs,$(KERNEL_SRC))
PROTO_OBJ := $(call objs,$(PROTO_SRC))
DAEMON_OBJ := $(call objs,$(DAEMON_SRC))
MAIN_OBJ := $(call objs,$(MAIN_SRC))
CLIENT_OBJ := $(call objs,$(CLIENT_SRC))
CLI_OBJ := $(call objs,$(CLI_SRC))
TEST_SUPPORT_OBJ := $(call objs,$(TEST_SUPPORT_SRC))
PIC_OBJ := $(patsubst $(OBJ)/%.o,$(OBJ)/%.pic.o,$(CLIENT_OBJ) $(PROTO_OBJ))

DAEMON_A := $(B)/libkvcellard.a
KERNEL_A := $(B)/libkvckernels.a
CLIENT_A := $(LIB)/libkvcellar.a
CLIENT_SO := $(LIB)/libkvcellar.so.$(SOVERSION)
CLIENT_PC := $(LIB)/pkgconfig/kvcellar.pc

UNIT_BIN := $(patsubst tests/unit/%.c,$(BIN)/tests/unit/%,$(wildcard tests/unit/test_*.c))
INTEGRATION_BIN := $(patsubst tests/integration/%.c,$(BIN)/tests/integration/%,$(wildcard tests/integration/test_*.c))
SIM_BIN := $(patsubst tests/sim/%.c,$(BIN)/tests/sim/%,$(wildcard tests/sim/test_*.c))
SIM_OBJ := $(call objs,$(filter-out tests/sim/test_%,$(wildcard tests/sim/*.c)))
FAULT_BIN := $(patsubst tests/fault/%.c,$(BIN)/tests/fault/%,$(wildcard tests/fault/test_*.c))
BENCH_BIN := $(patsubst tests/bench/%.c,$(BIN)/tests/bench/%,$(wildcard tests/bench/bench_*.c))
FUZZ_BIN := $(patsubst tests/fuzz/%.c,$(BIN)/tests/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
KILL_BIN := $(BIN)/tests/fault/kill_loop
KILL_OBJ := $(call objs,$(wildcard tests/fault/kill_*.c))
AGENT_BIN := $(BIN)/tests/fault/kvcellard_agent
SCRIPT_BIN := $(BIN)/tests/fake/engine_script
FAKE_CUDA := $(BIN)/tests/fake/libcuda.so.1
TEST_BIN := $(UNIT_BIN) $(SIM_BIN) $(INTEGRATION_BIN) $(FAULT_BIN)

# Faults that only the fault sheet has.
SHEET_BIN := $(patsubst tests/faults/%.c,$(BIN)/tests/faults/%,$(wildcard tests/faults/test_*.c))
SHEET_OBJ := $(call objs,$(filter-out tests/faults/test_%,$(wildcard tests/faults/*.c)))
TEST_BIN += $(SHEET_BIN)

# The simulation with a bug planted in the code under test, one program for each.
PLANTS := $(patsubst tests/sim/plants/%.sed,%,$(wildcard tests/sim/plants/*.sed))
PLANT_BIN := $(PLANTS:%=$(BIN)/tests/sim/plants/%)

# --- goals ------------------------------------------------------------------------------------

.PHONY: all tests benches fuzzers help deps demo test check bench fuzz killloop faults test-systemd lint format install uninstall clean
.DELETE_ON_ERROR:
.SECONDARY:

all: $(BIN)/kvcellard $(BIN)/kvcellar $(CLIENT_A) $(CLIENT_SO) $(CLIENT_PC)
tests: all $(FAKE_CUDA) $(TEST_BIN) $(if $(filter $(DEFAULT_VARIANT),$(VARIANT)),$(PLANT_BIN)) $(KILL_BIN) $(AGENT_BIN) $(SCRIPT_BIN)
benches: all $(BENCH_BIN)
fuzzers: $(FUZZ_BIN)

help:
	@echo 'make              build everything into build/bin and build/lib'
	@echo 'make demo         the main job, end to end, with a real KV cache'
	@echo 'make test         all tests: gcc, clang, sanitizers, lint'
	@echo 'make check        the tests of one variant (CC=gcc|clang SAN=address|thread)'
	@echo 'make bench        speed, as ratios against references of the same run'
	@echo 'make fuzz         fuzz every target for FUZZ_SECONDS (default 60) each'
	@echo 'make faults       the fault sheet in full, into docs/faults.md'
	@echo 'make killloop     kill the daemon KILLS times (default 300) under load, and look what is left'
	@echo 'make test-systemd the service under a systemd of its own, in a container (root, systemd-nspawn, debootstrap)'
	@echo 'make lint         the checks of the sources alone'
	@echo 'make install      into $$DESTDIR$$PREFIX; make uninstall takes it back'
	@echo 'make deps         install the packages that are missing (Debian 12, Ubuntu 24.04)'

deps:
	$(Q)deploy/deps.sh

demo: deps
	$(Q)$(MAKE) --no-print-directory all
	$(Q)tests/demo/demo.sh $(BIN)

# The whole gate: see tests/run.sh for what it runs and how it counts.
test: deps
	$(Q)tests/run.sh

check: tests fuzzers
	$(Q)tests/check.sh $(OUT) $(VARIANT)

bench: benches
	$(Q)tests/bench/bench.sh $(BIN)

lint: all
	$(Q)tests/lint/lint.sh

format:
	$(Q)git ls-files '*.c' '*.h' | xargs clang-format -i

# Every test that injects a fault of the sheet, in its long form.
faults: tests
	$(Q)KVC_TEST_FULL=1 python3 tests/faults/sheet.py --run $(OUT) --kills $(or $(KILLS),200) --doc docs/faults.md

test-systemd: all
	$(Q)tests/systemd/systemd.sh

killloop: all $(KILL_BIN)
	$(Q)$(KILL_BIN) --kills $(or $(KILLS),300) $(if $(SEED),--seed $(SEED))

fuzz:
	$(Q)tests/fuzz/fuzz.sh $(or $(FUZZ_SECONDS),60)

clean:
	rm -rf build compile_commands.json

# --- rules ------------------------------------------------------------------------------------

# Rebuild when flags change.
FLAGS_STAMP := $(B)/flags
FLAGS_NOW := $(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(LDFLAGS_ALL)
# Goals that were given no package flags build nothing themselves, and must not undo what a build noted.
ifdef PKGS
$(shell mkdir -p $(B) && echo '$(subst ','\'',$(FLAGS_NOW))' | cmp -s - $(FLAGS_STAMP) 2>/dev/null || echo '$(subst ','\'',$(FLAGS_NOW))' > $(FLAGS_STAMP))
endif

COMPILE = $(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(SIMD_FLAGS) -MMD -MP

$(GEN)/proto/kvcellar.pb-c.c $(GEN)/proto/kvcellar.pb-c.h &: proto/kvcellar.proto
	$(call say,PROTO,$<)
	@mkdir -p $(GEN)/proto
	$(Q)protoc-c --proto_path=. --c_out=$(GEN) $<

GEN_H := $(GEN)/proto/kvcellar.pb-c.h

# All but the codec and its GPU tests may include the generated header: a GPU machine need not have protoc-c.
NEEDS_GEN := $(PROTO_OBJ) $(DAEMON_OBJ) $(MAIN_OBJ) $(CLIENT_OBJ) $(CLI_OBJ) $(PIC_OBJ) \
             $(call objs,$(filter-out tests/gpu/%,$(wildcard tests/*/*.c)))
$(filter-out $(OBJ)/proto/kvc_status.o,$(NEEDS_GEN)): | $(GEN_H)

$(OBJ)/%.o: %.c $(FLAGS_STAMP)
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(COMPILE) -c $< -o $@

$(OBJ)/%.o: $(GEN)/%.c $(FLAGS_STAMP)
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(COMPILE) -c $< -o $@

$(OBJ)/%.pic.o: %.c $(FLAGS_STAMP)
	@mkdir -p $(@D)
	$(Q)$(COMPILE) -fPIC -c $< -o $@

$(OBJ)/%.pic.o: $(GEN)/%.c $(FLAGS_STAMP)
	@mkdir -p $(@D)
	$(Q)$(COMPILE) -fPIC -c $< -o $@

$(KERNEL_A): $(KERNEL_OBJ)
$(DAEMON_A): $(DAEMON_OBJ) $(PROTO_OBJ)
$(CLIENT_A): $(CLIENT_OBJ) $(PROTO_OBJ)
$(KERNEL_A) $(DAEMON_A) $(CLIENT_A):
	$(call say,AR,$@)
	@mkdir -p $(@D)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(CLIENT_SO): $(PIC_OBJ) client/libkvcellar.map
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_ALL) -shared -Wl,-soname,libkvcellar.so.$(SOVERSION) \
	    -Wl,--version-script,client/libkvcellar.map $(LDFLAGS_ALL) $(PIC_OBJ) $(CLIENT_LIBS) -o $@
	$(Q)ln -sf $(@F) $(LIB)/libkvcellar.so

$(CLIENT_PC): client/kvcellar.pc.in Makefile
	@mkdir -p $(@D)
	$(Q)sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' $< > $@

$(BIN)/kvcellard: $(MAIN_OBJ) $(DAEMON_A) $(KERNEL_A)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_ALL) $(MAIN_OBJ) $(DAEMON_A) $(KERNEL_A) $(DAEMON_LIBS) -lm -o $@

# `kvcellar replay` runs the daemon's own policies: daemon/policy and, under it, daemon/base.
CLI_POLICY_OBJ := $(call objs,$(wildcard daemon/policy/*.c) daemon/base/alloc.c daemon/base/check.c)

$(BIN)/kvcellar: $(CLI_OBJ) $(CLI_POLICY_OBJ) $(CLIENT_A) $(KERNEL_A)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_ALL) $(CLI_OBJ) $(CLI_POLICY_OBJ) $(CLIENT_A) $(KERNEL_A) $(CLIENT_LIBS) $(CLI_LIBS) -lm -o $@

# Tests and benches may use everything: the daemon's modules, the client library, the codec.
ALL_A = $(B)/libkvcsupport.a $(DAEMON_A) $(CLIENT_A) $(KERNEL_A)
$(B)/libkvcsupport.a: $(TEST_SUPPORT_OBJ)
	@mkdir -p $(@D)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(TEST_BIN) $(BENCH_BIN): $(BIN)/tests/%: $(OBJ)/tests/%.o $(B)/libkvcsupport.a $(DAEMON_A) $(CLIENT_A) $(KERNEL_A)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_ALL) $< $(TEST_OBJ) $(ALL_A) $(DAEMON_LIBS) $(CLIENT_LIBS) $(CLI_LIBS) $(TEST_LIBS) -lm -o $@

$(KILL_BIN): $(KILL_OBJ) $(ALL_A)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_ALL) $(KILL_OBJ) $(ALL_A) $(DAEMON_LIBS) $(CLIENT_LIBS) $(CLI_LIBS) -lm -o $@

# The daemon with an agent in it that makes allocations fail.
$(AGENT_BIN): $(MAIN_OBJ) $(OBJ)/tests/fault/agent.o $(DAEMON_A) $(KERNEL_A)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_ALL) -Wl,--wrap=accept4,--wrap=pthread_create,--wrap=clock_gettime $^ $(DAEMON_LIBS) -lm -o $@

# An engine process that does as a test says.
$(SCRIPT_BIN): $(OBJ)/tests/fake/engine_script.o $(KERNEL_A)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(shell pkg-config --libs libxxhash) -lm -o $@

$(SHEET_BIN): $(SHEET_OBJ)
$(SHEET_BIN): TEST_OBJ := $(SHEET_OBJ)

# Simulation: the objects of tests/sim stand in for the loop's, so they come before the archives.
$(SIM_BIN): $(SIM_OBJ)
$(SIM_BIN): TEST_OBJ := $(SIM_OBJ)

# A plant's object comes before the archives too, in the place of the file that it spoils.
PLANT_LINK := $(OBJ)/tests/sim/test_disk_histories.o $(SIM_OBJ) $(B)/libkvcsupport.a $(DAEMON_A) $(CLIENT_A) $(KERNEL_A)
$(PLANTS:%=$(OBJ)/tests/sim/plants/%.c): $(OBJ)/tests/sim/plants/%.c: tests/sim/plants/%.sed tests/sim/plant.sh $(DAEMON_SRC) $(KERNEL_SRC)
	$(Q)tests/sim/plant.sh $< $@

$(PLANTS:%=$(OBJ)/tests/sim/plants/%.o): %.o: %.c $(FLAGS_STAMP) | $(GEN_H)
	$(call say,CC,$@)
	$(Q)$(COMPILE) -w -c $< -o $@

$(PLANT_BIN): $(BIN)/%: $(OBJ)/%.o $(PLANT_LINK)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_ALL) $< $(PLANT_LINK) $(DAEMON_LIBS) $(CLIENT_LIBS) $(CLI_LIBS) $(TEST_LIBS) -lm -o $@

# A CUDA driver without GPU, for who loads one at run time.
$(FAKE_CUDA): $(OBJ)/tests/fake/libcuda.pic.o
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) -shared -Wl,-soname,libcuda.so.1 $(LDFLAGS_ALL) $< -o $@

# The same for the cache and the GPU engine, under sessions alone.
SESSION_TEST := $(BIN)/tests/unit/test_session $(BIN)/tests/unit/test_session_cuda $(BIN)/tests/unit/test_session_tenant
SESSION_BIN := $(SESSION_TEST) $(BIN)/tests/fuzz/fuzz_session
SESSION_OBJ := $(call objs,tests/fake/fake_cache.c tests/fake/fake_gpu.c)
$(SESSION_BIN): TEST_OBJ := $(SESSION_OBJ)
$(SESSION_TEST): TEST_OBJ += $(OBJ)/tests/fake/session_world.o
$(SESSION_BIN): $(SESSION_OBJ) $(OBJ)/tests/fake/session_world.o

# With FUZZ=1 (clang) a fuzz target is a libFuzzer program, else it replays corpus files.
$(FUZZ_BIN): $(BIN)/tests/%: $(OBJ)/tests/%.o $(if $(FUZZ),,$(OBJ)/tests/fuzz/replay.o) $(B)/libkvcsupport.a $(DAEMON_A) $(CLIENT_A) $(KERNEL_A)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_ALL) $(if $(FUZZ),-fsanitize=fuzzer) $< $(if $(FUZZ),,$(OBJ)/tests/fuzz/replay.o) $(TEST_OBJ) $(ALL_A) $(DAEMON_LIBS) $(CLIENT_LIBS) $(CLI_LIBS) -lm -o $@

include $(wildcard kernels/cuda.mk daemon/gpu/engine.mk client/cuda/cuda.mk deploy/install.mk)
-include $(shell find $(OBJ) -name '*.d' 2>/dev/null)

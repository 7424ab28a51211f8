# The codec's CUDA kernels, their tests and their bench. Included by the Makefile.
#
# CUDA=auto builds them if nvcc is there, yes insists, no leaves them out. Nothing of the daemon, the library or the
# command line links them; the library $(KERN_CUDA_A) is for programs that run on a GPU machine.

CUDA ?= auto
CUDA_ARCH ?= 90
NVCC ?= $(or $(shell command -v nvcc 2>/dev/null),$(wildcard /usr/local/cuda/bin/nvcc))
CXX ?= g++

ifeq ($(filter auto yes no,$(CUDA)),)
$(error CUDA is auto, yes or no, not '$(CUDA)')
endif
HAVE_CUDA := $(if $(filter no,$(CUDA)),,$(if $(NVCC),yes))
ifeq ($(CUDA)$(HAVE_CUDA),yes)
$(error CUDA=yes, but there is no nvcc)
endif

# No contraction, no approximation, no flushing of subnormals: the kernels restore the bits of the reference.
NVCC_FLAGS := -std=c++17 -O3 -arch=sm_$(CUDA_ARCH) -fmad=false -lineinfo -I. -Iproto -Xcompiler -Wall,-Wextra,-fPIC
EMU_FLAGS := -std=c++17 -O2 -g -Wall -Wextra -Wno-unknown-pragmas -ffp-contract=off -fno-strict-aliasing \
             -U_FORTIFY_SOURCE -I. -Iproto
GPU_LIBS := -lxxhash -lsodium -lm -lpthread

KERN_CU := $(wildcard kernels/*.cu)
KERN_CUDA_OBJ := $(patsubst %.cu,$(OBJ)/%.cu.o,$(KERN_CU))
KERN_EMU_OBJ := $(patsubst %.cu,$(OBJ)/%.emu.o,$(KERN_CU)) $(OBJ)/tests/gpu/emu.emu.o $(OBJ)/tests/gpu/gpu_emu.o
KERN_CUDA_A := $(B)/libkvckerncuda.a
GPU_TEST_OBJ := $(call objs,tests/gpu/test_kern.c $(wildcard tests/gpu/kern_*.c))
GPU_BIN := $(BIN)/tests/gpu

$(OBJ)/%.cu.o: %.cu $(FLAGS_STAMP)
	$(call say,NVCC,$@)
	@mkdir -p $(@D)
	$(Q)$(NVCC) $(NVCC_FLAGS) -MMD -MF $(@:.o=.d) -c $< -o $@

$(OBJ)/%.emu.o: %.cu $(FLAGS_STAMP)
	$(call say,CXX,$@)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(EMU_FLAGS) -MMD -x c++ -c $< -o $@

$(OBJ)/tests/gpu/emu.emu.o: tests/gpu/emu.cc $(FLAGS_STAMP)
	$(call say,CXX,$@)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(EMU_FLAGS) -MMD -c $< -o $@

$(KERN_CUDA_A): $(KERN_CUDA_OBJ)
	$(call say,AR,$@)
	@mkdir -p $(@D)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(GPU_BIN)/test_kern: $(GPU_TEST_OBJ) $(OBJ)/tests/gpu/gpu_cuda.cu.o $(KERN_CUDA_A) $(KERNEL_A) $(OBJ)/proto/kvc_status.o
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(NVCC) -arch=sm_$(CUDA_ARCH) -cudart static $^ $(GPU_LIBS) -o $@

$(GPU_BIN)/bench_kern: $(OBJ)/tests/bench/bench_kern.cu.o $(OBJ)/tests/gpu/gpu_cuda.cu.o $(KERN_CUDA_A) $(KERNEL_A) \
                       $(OBJ)/proto/kvc_status.o
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(NVCC) -arch=sm_$(CUDA_ARCH) -cudart static $^ $(GPU_LIBS) -o $@

# The same kernels and the same test on a CPU, a fibre a thread.
$(GPU_BIN)/test_kern_emulated: $(GPU_TEST_OBJ) $(KERN_EMU_OBJ) $(KERNEL_A) $(OBJ)/proto/kvc_status.o
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(LDFLAGS_ALL) $^ $(GPU_LIBS) -o $@

# One variant of the gate runs it (tests/check.sh); a sanitizer does not understand its fibres.
ifeq ($(VARIANT),$(DEFAULT_VARIANT))
tests: $(GPU_BIN)/test_kern_emulated
endif

.PHONY: cuda test-gpu test-gpu-emulated bench-gpu

test-gpu-emulated: $(GPU_BIN)/test_kern_emulated
	$(Q)$< $(or $(TILES),2000) $(or $(SEED),1) tests/data/keys.bf16 tests/data/values.bf16

ifdef HAVE_CUDA
cuda: $(KERN_CUDA_A) $(GPU_BIN)/test_kern $(GPU_BIN)/bench_kern

# KV: a folder with the whole files of docs/codec.md; without it, the slice of them in tests/data.
# These goals do not ask for the libraries of the rest themselves: a make of their own does.
test-gpu:
	$(Q)$(MAKE) --no-print-directory $(if $(findstring j,$(filter-out --%,$(MAKEFLAGS))),,-j$$(nproc)) cuda e2e
	$(Q)tests/gpu/test_gpu.sh $(OUT) $(or $(KV),tests/data) $(PARTS)

bench-gpu:
	$(Q)$(MAKE) --no-print-directory $(if $(findstring j,$(filter-out --%,$(MAKEFLAGS))),,-j$$(nproc)) cuda e2e
	$(Q)tests/gpu/bench_gpu.sh $(OUT) $(PARTS)
else
cuda test-gpu bench-gpu:
	@echo 'skip: $@: $(if $(filter no,$(CUDA)),CUDA=no,no nvcc)'
endif

include tests/gpu/gpu.mk

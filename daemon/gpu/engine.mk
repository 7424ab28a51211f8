# kvcellar-engine, the child process of the daemon for one GPU; and the same over the fake device of the tests, which
# needs no CUDA. Included by the Makefile, after kernels/cuda.mk.

GPU_SRC := $(filter-out daemon/gpu/device_cuda.c,$(wildcard daemon/gpu/*.c))
GPU_OBJ := $(call objs,$(GPU_SRC))
GPU_BASE_OBJ := $(call objs,daemon/base/alloc.c daemon/base/check.c daemon/base/errno.c daemon/base/log.c)
GPU_COMMON := $(GPU_OBJ) $(GPU_BASE_OBJ) $(KERNEL_A) $(OBJ)/proto/kvc_status.o

ENGINE_FAKE_BIN := $(BIN)/tests/fake/kvcellar-engine-fake
tests: $(ENGINE_FAKE_BIN)

$(ENGINE_FAKE_BIN): $(OBJ)/tests/fake/device_fake.o $(GPU_COMMON)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_ALL) $^ -lxxhash -lm -o $@

ifdef HAVE_CUDA
ENGINE_BIN := $(BIN)/kvcellar-engine
ENGINE_FAULTY_BIN := $(GPU_BIN)/kvcellar-engine-faulty
DEVICE_TEST_BIN := $(GPU_BIN)/test_device
DEVICE_OBJ := $(OBJ)/daemon/gpu/device_cuda.o

# CUDA's headers are not written for our warnings.
CUDA_INCLUDE := $(abspath $(dir $(NVCC))/../include)
$(DEVICE_OBJ): CPPFLAGS_ALL += -isystem $(CUDA_INCLUDE)

# -cudart static: nothing of CUDA is linked but the driver, at run time.
LINK_CUDA = $(NVCC) -arch=sm_$(CUDA_ARCH) -cudart static

$(ENGINE_BIN): $(DEVICE_OBJ) $(GPU_OBJ) $(GPU_BASE_OBJ) $(KERN_CUDA_A) $(KERNEL_A) $(OBJ)/proto/kvc_status.o
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(LINK_CUDA) $^ -lxxhash -lm -lpthread -o $@

# With a kernel in it that accesses what is not there, on SIGUSR1.
$(ENGINE_FAULTY_BIN): $(OBJ)/tests/gpu/engine_faults.cu.o $(DEVICE_OBJ) $(GPU_OBJ) $(GPU_BASE_OBJ) $(KERN_CUDA_A) \
                      $(KERNEL_A) $(OBJ)/proto/kvc_status.o
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(LINK_CUDA) $^ -lxxhash -lm -lpthread -o $@

$(DEVICE_TEST_BIN): $(OBJ)/tests/gpu/test_device.o $(OBJ)/tests/gpu/device_worker.cu.o $(DEVICE_OBJ) $(GPU_BASE_OBJ) \
                    $(KERN_CUDA_A) $(KERNEL_A) $(OBJ)/proto/kvc_status.o
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(LINK_CUDA) $^ -lxxhash -lm -lpthread -o $@

# One variant of it is enough.
ifeq ($(VARIANT),$(DEFAULT_VARIANT))
all: $(ENGINE_BIN)
endif
cuda: $(ENGINE_BIN) $(ENGINE_FAULTY_BIN) $(DEVICE_TEST_BIN)
endif

# libkvcellar-cuda: the codec inside the worker, over libkvcellar. Included by the Makefile.
#
# Built where CUDA is; its C code is tested everywhere, over a fake device (tests/unit/test_worker.c). Included after
# daemon/gpu/engine.mk.

WORKER_SRC := $(filter-out %_cuda.c,$(wildcard client/cuda/*.c))
WORKER_OBJ := $(call objs,$(WORKER_SRC))
WORKER_PIC := $(patsubst $(OBJ)/%.o,$(OBJ)/%.pic.o,$(WORKER_OBJ) $(OBJ)/client/cuda/device_cuda.o $(KERNEL_OBJ)) \
              $(OBJ)/proto/kvc_status.pic.o
WORKER_SO := $(LIB)/libkvcellar-cuda.so.$(SOVERSION)
WORKER_PC := $(LIB)/pkgconfig/kvcellar-cuda.pc
WORKER_FAKE := $(OBJ)/tests/fake/worker_device.o

# One over a daemon that is faked too, one over the real one.
$(BIN)/tests/unit/test_worker: $(WORKER_OBJ) $(WORKER_FAKE) $(OBJ)/tests/fake/fake_store.o
$(BIN)/tests/unit/test_worker: TEST_OBJ := $(WORKER_OBJ) $(WORKER_FAKE) $(OBJ)/tests/fake/fake_store.o
$(BIN)/tests/integration/test_worker_roads: $(WORKER_OBJ) $(WORKER_FAKE)
$(BIN)/tests/integration/test_worker_roads: TEST_OBJ := $(WORKER_OBJ) $(WORKER_FAKE)

# Both roads, over the fakes: the daemon's engine, the worker's driver, the worker's device.
ROADS_OBJ := $(OBJ)/tests/gpu/roads/test_roads.o
ROADS_FAKE := $(BIN)/tests/gpu/test_roads_fake
$(ROADS_OBJ): | $(GEN_H)
$(ROADS_FAKE): $(ROADS_OBJ) $(E2E_OBJ) $(WORKER_OBJ) $(WORKER_FAKE) $(ALL_A)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_ALL) $^ $(E2E_LIBS) -o $@
tests: $(ROADS_FAKE)

ifdef HAVE_CUDA
# CUDA's headers are not written for our warnings.
$(OBJ)/client/cuda/device_cuda.o $(OBJ)/client/cuda/device_cuda.pic.o: CPPFLAGS_ALL += -isystem $(CUDA_INCLUDE)

$(WORKER_SO): $(WORKER_PIC) $(KERN_CUDA_OBJ) $(CLIENT_SO) client/cuda/libkvcellar-cuda.map
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(LINK_CUDA) -shared -Xlinker -soname,$(@F) -Xlinker -z,relro,-z,now -Xlinker --as-needed \
	    -Xlinker -rpath -Xlinker '$$ORIGIN' \
	    -Xlinker --version-script,client/cuda/libkvcellar-cuda.map $(WORKER_PIC) $(KERN_CUDA_OBJ) \
	    -L$(LIB) -lkvcellar -lxxhash -lm -lpthread -o $@
	$(Q)ln -sf $(@F) $(LIB)/libkvcellar-cuda.so

$(WORKER_PC): client/cuda/kvcellar-cuda.pc.in Makefile
	@mkdir -p $(@D)
	$(Q)sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' $< > $@

# The same on a GPU.
ROADS_TEST := $(BIN)/tests/gpu/test_roads
$(ROADS_TEST): $(ROADS_OBJ) $(E2E_OBJ) $(WORKER_SO) $(B)/libkvcsupport.a $(DAEMON_A) $(KERNEL_A)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_ALL) $< $(E2E_OBJ) -L$(LIB) -lkvcellar-cuda -lkvcellar \
	    -Wl,-rpath,'$$ORIGIN/../../../lib' $(B)/libkvcsupport.a $(DAEMON_A) $(KERNEL_A) $(E2E_LIBS) \
	    -o $@

# One variant of it is enough.
ifeq ($(VARIANT),$(DEFAULT_VARIANT))
all: $(WORKER_SO) $(WORKER_PC)
endif
cuda: $(WORKER_SO) $(WORKER_PC)
e2e: $(ROADS_TEST)
endif

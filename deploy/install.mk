# Targets install and uninstall; included by the Makefile. PREFIX, DESTDIR, SYSTEMD_DIR, SYSCONF_DIR as there.
#
# uninstall removes what install laid: files by name, then the folders that are this project's own if they are
# empty. A configuration file that was changed is neither overwritten nor removed; one that is as the sample was when
# it was installed becomes as the sample is now.

BINDIR := $(PREFIX)/bin
LIBDIR := $(PREFIX)/lib
INCLUDEDIR := $(PREFIX)/include/kvcellar
DOCDIR := $(PREFIX)/share/doc/kvcellar
CONFDIR := $(SYSCONF_DIR)/kvcellar
SAMPLE := deploy/kvcellard.conf

# The engine only where it is built: with nvcc. It is removed in any case.
INSTALL_BINS := kvcellard kvcellar $(if $(filter $(DEFAULT_VARIANT),$(VARIANT)),$(notdir $(ENGINE_BIN)))
INSTALL_HEADERS := client/kvcellar.h client/kvcellar_cuda.h proto/kvc_status.h
INSTALL_DOCS := $(wildcard README.md LICENSE docs/*.md) $(SAMPLE) deploy/kvcellard-gpu.conf
INSTALL_SO := libkvcellar.so.$(VERSION)

INSTALLED := $(addprefix $(BINDIR)/,kvcellard kvcellar kvcellar-engine) \
             $(LIBDIR)/libkvcellar.a $(LIBDIR)/$(INSTALL_SO) $(LIBDIR)/libkvcellar.so.$(SOVERSION) \
             $(LIBDIR)/libkvcellar.so $(LIBDIR)/pkgconfig/kvcellar.pc \
             $(addprefix $(INCLUDEDIR)/,$(notdir $(INSTALL_HEADERS))) \
             $(addprefix $(DOCDIR)/,$(notdir $(INSTALL_DOCS))) \
             $(SYSTEMD_DIR)/kvcellar.service
INSTALLED_DIRS := $(INCLUDEDIR) $(DOCDIR) $(CONFDIR)

# The loader finds libraries in its own paths, such as /usr/local/lib, by a cache.
LDCONFIG = @[ -n '$(DESTDIR)' ] || [ "$$(id -u)" -ne 0 ] || ldconfig || \
    echo 'ldconfig failed: programs may not find the libraries in $(LIBDIR)'

.PHONY: install-programs install-library install-docs install-service

install: install-programs install-library install-docs install-service

install-programs: all
	install -d $(DESTDIR)$(BINDIR)
	install -m 755 $(addprefix $(BIN)/,$(INSTALL_BINS)) $(DESTDIR)$(BINDIR)

install-library: all
	install -d $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(INCLUDEDIR)
	install -m 644 $(CLIENT_A) $(DESTDIR)$(LIBDIR)
	install -m 755 $(CLIENT_SO) $(DESTDIR)$(LIBDIR)/$(INSTALL_SO)
	ln -sfn $(INSTALL_SO) $(DESTDIR)$(LIBDIR)/libkvcellar.so.$(SOVERSION)
	ln -sfn libkvcellar.so.$(SOVERSION) $(DESTDIR)$(LIBDIR)/libkvcellar.so
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' client/kvcellar.pc.in \
	    > $(DESTDIR)$(LIBDIR)/pkgconfig/kvcellar.pc
	chmod 644 $(DESTDIR)$(LIBDIR)/pkgconfig/kvcellar.pc
	install -m 644 $(INSTALL_HEADERS) $(DESTDIR)$(INCLUDEDIR)
	$(LDCONFIG)

# The library of workers, where it is built.
ifdef HAVE_CUDA
WORKER_INSTALL_SO := libkvcellar-cuda.so.$(VERSION)
INSTALLED += $(INCLUDEDIR)/kvcellar_worker.h $(LIBDIR)/pkgconfig/kvcellar-cuda.pc \
             $(addprefix $(LIBDIR)/,$(WORKER_INSTALL_SO) libkvcellar-cuda.so.$(SOVERSION) libkvcellar-cuda.so)

.PHONY: install-worker
install: install-worker

install-worker: install-library
	install -m 755 $(WORKER_SO) $(DESTDIR)$(LIBDIR)/$(WORKER_INSTALL_SO)
	ln -sfn $(WORKER_INSTALL_SO) $(DESTDIR)$(LIBDIR)/libkvcellar-cuda.so.$(SOVERSION)
	ln -sfn libkvcellar-cuda.so.$(SOVERSION) $(DESTDIR)$(LIBDIR)/libkvcellar-cuda.so
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' client/cuda/kvcellar-cuda.pc.in \
	    > $(DESTDIR)$(LIBDIR)/pkgconfig/kvcellar-cuda.pc
	chmod 644 $(DESTDIR)$(LIBDIR)/pkgconfig/kvcellar-cuda.pc
	install -m 644 client/kvcellar_worker.h $(DESTDIR)$(INCLUDEDIR)
	$(LDCONFIG)
endif

# After the service: a configuration is compared with the sample that was installed with it.
install-docs: install-service
	install -d $(DESTDIR)$(DOCDIR)
	install -m 644 $(INSTALL_DOCS) $(DESTDIR)$(DOCDIR)

install-service:
	install -d $(DESTDIR)$(SYSTEMD_DIR) $(DESTDIR)$(CONFDIR)
	sed -e 's|@BINDIR@|$(BINDIR)|' -e 's|@SYSCONFDIR@|$(SYSCONF_DIR)|' -e 's|@DOCDIR@|$(DOCDIR)|' \
	    deploy/kvcellar.service > $(DESTDIR)$(SYSTEMD_DIR)/kvcellar.service
	chmod 644 $(DESTDIR)$(SYSTEMD_DIR)/kvcellar.service
	@conf=$(DESTDIR)$(CONFDIR)/kvcellard.conf; \
	if cmp -s $(SAMPLE) $$conf; then \
	    :; \
	elif [ ! -e $$conf ] || cmp -s $(DESTDIR)$(DOCDIR)/$(notdir $(SAMPLE)) $$conf; then \
	    install -m 644 $(SAMPLE) $$conf; echo "installed $$conf"; \
	else \
	    echo "kept $$conf, which was changed; the current sample is $(DESTDIR)$(DOCDIR)/$(notdir $(SAMPLE))"; \
	fi

# The same comparison, so this comes before the rest.
uninstall:
	@conf=$(DESTDIR)$(CONFDIR)/kvcellard.conf; \
	if cmp -s $(DESTDIR)$(DOCDIR)/$(notdir $(SAMPLE)) $$conf; then \
	    rm -f $$conf; \
	elif [ -e $$conf ]; then \
	    echo "kept $$conf, which was changed"; \
	fi
	rm -f $(addprefix $(DESTDIR),$(INSTALLED))
	$(LDCONFIG)
	@for dir in $(addprefix $(DESTDIR),$(INSTALLED_DIRS)); do \
	    [ ! -d $$dir ] || rmdir --ignore-fail-on-non-empty $$dir; \
	done

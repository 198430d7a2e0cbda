# convstore. `make run` shows it working, `make test` proves it; `make help` lists the rest.
BUILD ?= build
CC ?= cc
PYTHON ?= /usr/bin/python3
VERSION := 0.1.0

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
UNITDIR ?= $(PREFIX)/lib/systemd/system
SYSCONFDIR ?= /etc
MAN_PAGES = $(wildcard */man/*.[1-8] */*.[1-8])
JOBS ?= $(shell nproc)

PKGS := libuv libpq libcurl msgpack libsystemd jansson libxxhash libmicrohttpd
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS := $(shell pkg-config --libs $(PKGS) 2>/dev/null)
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 -Wundef \
        -Wwrite-strings -Werror
HARDEN := -fstack-protector-strong -fstack-clash-protection -fcf-protection -D_FORTIFY_SOURCE=2
OPT ?= -O2 -g $(HARDEN)
# What a msgpack_sbuffer begins with: an ack takes 60 bytes, and 8,192 (msgpack-c's own) for each
# session of a group have the heap grow and shrink at every group.
SBUFFER := -DMSGPACK_SBUFFER_INIT_SIZE=256
SAN ?=
CFLAGS_ALL = -std=c17 -D_GNU_SOURCE $(WARN) $(OPT) $(SAN) -fPIC -MMD -MP -I. -I$(BUILD) \
        -DCONVSTORE_VERSION='"$(VERSION)"' $(SBUFFER) $(PKG_CFLAGS) $(CFLAGS)
LDFLAGS_ALL = -pie -Wl,-z,relro,-z,now $(SAN) $(LDFLAGS)
LIBS = $(PKG_LIBS) -linih -lm -lpthread
Q := $(if $(V),,@)
say = $(if $(V),,@echo "  $(1) $@")

# One rule for each folder: proto/ and daemon/ (without main.c) become archives, so that a unit
# test links what it names and no more.
obj = $(patsubst %.c,$(BUILD)/%.o,$(1))
PROTO := $(call obj,$(wildcard proto/*.c))
DAEMON := $(call obj,$(filter-out daemon/main.c,$(wildcard daemon/*.c)))
CTL := $(call obj,$(wildcard client/convstorectl*.c))
CTL_PARTS := $(filter-out $(BUILD)/client/convstorectl.o,$(CTL))
CLIENT := $(filter-out $(CTL),$(call obj,$(wildcard client/*.c)))
UNITS := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test_*.c))
SUPPORT := $(call obj,$(wildcard tests/support/*.c))
CAMPAIGNS := $(patsubst tests/campaign/%.c,$(BUILD)/campaign/%,$(wildcard tests/campaign/*.c))
# tests/bench/bench_NAME.c is a program of its own; all else there is convstore-bench, and all of that
# but its main an archive, as it is with convstorectl.
BENCHES := $(patsubst tests/bench/%.c,$(BUILD)/%,$(wildcard tests/bench/bench_*.c))
BENCH := $(call obj,$(filter-out tests/bench/bench_% tests/bench/main.c,$(wildcard tests/bench/*.c)))
ARCHIVES := $(BUILD)/libsupport.a $(BUILD)/libbench.a $(BUILD)/libctl.a $(BUILD)/libdaemon.a \
  $(BUILD)/libconvstore.a $(BUILD)/libproto.a
PROGRAMS := $(BUILD)/convstored $(BUILD)/convstorectl $(BUILD)/libconvstore.so

.PHONY: all build programs check deps run test bench fmt lint asan tsan fuzz install uninstall deb clean help \
  campaign-power campaign-kill campaign-points campaign-outage campaign-pg
# A fresh machine has no pkg-config before deps has run: what needs it is a make of its own.
all: deps
	@$(MAKE) --no-print-directory -j$(JOBS) build
build: programs $(BUILD)/convstore-bench $(UNITS) $(CAMPAIGNS) $(BENCHES)
programs: $(PROGRAMS)

help:
	@echo "make run      build, start a private PostgreSQL and the daemon, store samples, show them"
	@echo "make test     build and run all tests (TESTS='test_scan test_store' for some)"
	@echo "make asan     the same under AddressSanitizer and UBSan; make tsan: ThreadSanitizer"
	@echo "make fuzz     each parser's fuzzer for FUZZ_SECONDS (60)"
	@echo "make fmt lint format; check the format and build with clang"
	@echo "make bench    measure, beside Redis, beanstalkd and PostgreSQL alone; BENCH_SECONDS a run (30)"
	@echo "make campaign-power  10 million simulated losses of power (make test: 100,000)"
	@echo "make campaign-kill campaign-points campaign-outage  the daemon killed 1,000 times, and at each"
	@echo "              named point; PostgreSQL away for a million conversations"
	@echo "make campaign-pg  2,500 faults of PostgreSQL under load (make test: 250)"
	@echo "make install uninstall  to PREFIX (/usr/local) below DESTDIR; units, configuration and all"
	@echo "make deb      Debian packages, in build/deb: convstored, convstorectl, libconvstore1 and -dev"
	@echo "make deps     install what is missing; all, clean; V=1 shows each command"

deps:
	@tests/setup/deps
run: deps
	@$(MAKE) --no-print-directory -j$(JOBS) programs
	@tests/setup/run $(BUILD)
test: all
	@$(MAKE) --no-print-directory check
bench: all
	@$(PYTHON) tests/bench/run --build $(BUILD) $(BENCH_ONLY)
check: build
	@$(PYTHON) tests/run.py --build $(BUILD) $(TESTS)

$(BUILD)/convstored: $(BUILD)/daemon/main.o $(BUILD)/libdaemon.a $(BUILD)/libproto.a
$(BUILD)/convstorectl: $(CTL) $(BUILD)/libconvstore.a $(BUILD)/libdaemon.a $(BUILD)/libproto.a
$(UNITS): $(BUILD)/tests/%: $(BUILD)/tests/unit/%.o $(ARCHIVES)
$(BENCHES): $(BUILD)/%: $(BUILD)/tests/bench/%.o $(ARCHIVES)
$(CAMPAIGNS): $(BUILD)/campaign/%: $(BUILD)/tests/campaign/%.o $(ARCHIVES)
$(BUILD)/convstore-bench: $(BUILD)/tests/bench/main.o $(ARCHIVES)
$(BUILD)/convstored $(BUILD)/convstorectl $(BUILD)/convstore-bench $(BENCHES) $(CAMPAIGNS):
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)
$(UNITS):
	@mkdir -p $(@D)
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS) -lcmocka
$(BUILD)/libconvstore.so: $(CLIENT) $(BUILD)/libproto.a client/convstore.map
	$(call say,LINK)
	$(Q)$(CC) -shared $(SAN) -Wl,-z,relro,-z,now -Wl,-soname,libconvstore.so.1 \
	  -Wl,--version-script=client/convstore.map -o $@ $(filter-out %.map,$^) -lmsgpackc
$(BUILD)/libproto.a: $(PROTO)
$(BUILD)/libbench.a: $(BENCH)
$(BUILD)/libdaemon.a: $(DAEMON)
$(BUILD)/libsupport.a: $(SUPPORT)
$(BUILD)/libconvstore.a: $(CLIENT)
$(BUILD)/libctl.a: $(CTL_PARTS)
%.a:
	@rm -f $@
	$(call say,AR  )
	$(Q)ar rcs $@ $^
$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC  )
	$(Q)$(CC) $(CFLAGS_ALL) -c -o $@ $<

# SQL and other text that the daemon carries: one C array for each file.
$(BUILD)/daemon/%.sql.h: daemon/%.sql
	@mkdir -p $(@D)
	$(Q)(echo "static const char $(subst -,_,$*)_sql[] = {"; od -An -v -tx1 $< | \
	  sed 's/ \([0-9a-f][0-9a-f]\)/0x\1,/g'; echo "0};") > $@
$(BUILD)/daemon/schema.o: $(patsubst daemon/%.sql,$(BUILD)/daemon/%.sql.h,$(wildcard daemon/*.sql))

SOURCES := $(wildcard proto/*.[ch] daemon/*.[ch] client/*.[ch] tests/*/*.[ch])
fmt:
	clang-format -i $(SOURCES)
lint:
	clang-format --dry-run -Werror $(SOURCES)
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=build/clang CC=clang build

asan: deps
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=build/asan CC=clang OPT="-O1 -g -fno-omit-frame-pointer" \
	  SAN="-fsanitize=address,undefined -fno-sanitize-recover=undefined" check
tsan: deps
	@TSAN_OPTIONS=suppressions=$(CURDIR)/tests/setup/tsan.supp $(MAKE) --no-print-directory -j$(JOBS) BUILD=build/tsan CC=clang OPT="-O1 -g -fno-omit-frame-pointer" \
	  SAN=-fsanitize=thread check

# Each parser's fuzz target, FUZZ_SECONDS long. The corpus stays and grows in $(BUILD)/fuzz.
FUZZ_SECONDS ?= 60
FUZZERS := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
fuzz:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/fuzz CC=clang OPT="-O1 -g -fno-omit-frame-pointer" \
	  SAN="-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined" \
	  $(FUZZERS:%=run-fuzz-%)
run-fuzz-%: $(BUILD)/fuzz_%
	@mkdir -p $(BUILD)/corpus/$* $(BUILD)/seeds/$*
	@$(PYTHON) tests/fuzz/make_seeds $(BUILD)/seeds
	@$< -max_total_time=$(FUZZ_SECONDS) -max_len=8192 -timeout=5 -rss_limit_mb=1024 -print_final_stats=1 \
	  $(patsubst %,-dict=%,$(wildcard tests/fuzz/$*.dict)) -artifact_prefix=$(BUILD)/ \
	  $(BUILD)/corpus/$* $(BUILD)/seeds/$* >$<.log 2>&1 || { tail -n 40 $<.log; exit 1; }
	@sed -n 's/^stat::number_of_executed_units: */fuzz_$*: inputs tried without a failure: /p' $<.log
.SECONDARY:
$(BUILD)/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/libdaemon.a $(BUILD)/libproto.a
	$(CC) -fsanitize=fuzzer $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

# The static library carries proto/ with it, so that one -lconvstore is enough. A configuration that is
# there is kept. Packages set PREFIX=/usr, LIBDIR and UNITDIR.
install: programs $(BUILD)/convstore-bench
	install -D -t $(DESTDIR)$(PREFIX)/bin $(BUILD)/convstorectl $(BUILD)/convstore-bench
	install -D -t $(DESTDIR)$(PREFIX)/sbin $(BUILD)/convstored
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/include client/convstore.h
	install -D -m 644 $(BUILD)/libconvstore.so $(DESTDIR)$(LIBDIR)/libconvstore.so.1
	ln -sf libconvstore.so.1 $(DESTDIR)$(LIBDIR)/libconvstore.so
	rm -f $(DESTDIR)$(LIBDIR)/libconvstore.a
	ar rcs $(DESTDIR)$(LIBDIR)/libconvstore.a $(CLIENT) $(PROTO)
	install -d $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(UNITDIR)
	printf '%s\n' 'Name: libconvstore' 'Description: hands conversations to convstored' \
	  'Version: $(VERSION)' 'Libs: -L$(LIBDIR) -lconvstore' \
	  'Cflags: -I$(PREFIX)/include' > $(DESTDIR)$(LIBDIR)/pkgconfig/convstore.pc
	for unit in convstored.service convstored.socket; do sed 's,/usr/\(s\?bin\)/conv,$(PREFIX)/\1/conv,' \
	  systemd/$$unit > $(DESTDIR)$(UNITDIR)/$$unit && chmod 644 $(DESTDIR)$(UNITDIR)/$$unit; done
	install -D -m 644 systemd/convstored.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/convstored.conf
	install -D -m 644 systemd/convstored.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/convstored.conf
	install -D -m 644 systemd/completion/convstorectl.bash \
	  $(DESTDIR)$(PREFIX)/share/bash-completion/completions/convstorectl
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/zsh/vendor-completions systemd/completion/_convstorectl
	$(foreach page,$(MAN_PAGES),install -D -m 644 -t \
	  $(DESTDIR)$(PREFIX)/share/man/man$(subst .,,$(suffix $(page))) $(page) &&) true
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/convstore $(filter-out $(MAN_PAGES),$(wildcard config/*.*)) \
	  proto/PROTOCOL.md proto/JOURNAL.md README.md LICENSE
	[ -e $(DESTDIR)$(SYSCONFDIR)/convstore/convstored.conf ] || \
	  install -D -m 644 -t $(DESTDIR)$(SYSCONFDIR)/convstore config/convstored.conf
# What an install would put there, so that there is no second list; the configuration stays.
uninstall:
	rm -rf $(BUILD)/uninstall
	$(MAKE) --no-print-directory install DESTDIR=$(BUILD)/uninstall >/dev/null
	find $(BUILD)/uninstall ! -type d ! -path '*/convstore/convstored.conf' -printf '%P\n' | \
	  while read -r file; do rm -f "$(DESTDIR)/$$file"; done
	rm -rf $(DESTDIR)$(PREFIX)/share/doc/convstore
	rm -rf $(BUILD)/uninstall

# From a copy of the sources, since dpkg-buildpackage writes beside and into them. What this make says to
# its children is not for the one inside.
DEB := $(BUILD)/deb
deb:
	rm -rf $(DEB)
	mkdir -p $(DEB)/convstore
	git ls-files -z | xargs -0 cp --parents -t $(DEB)/convstore
	cp -r systemd/debian $(DEB)/convstore/debian
	cd $(DEB)/convstore && env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u BUILD \
	  dpkg-buildpackage -us -uc -b -j$(JOBS)
	@echo "the packages:" $(DEB)/*.deb

# The journal through 10 million simulated losses of power; a failure prints the seed that replays it.
campaign-power: $(BUILD)/campaign/power
	$< --states 10000000
# The daemon as a process: random kills, named kills, a long outage.
campaign-kill campaign-points campaign-outage: campaign-%: programs
	@TEST_BUILD=$(BUILD) $(PYTHON) tests/campaign/$* --verbose
# PostgreSQL's faults, ten times as many.
campaign-pg: build
	@TEST_CAMPAIGN=1 $(PYTHON) tests/run.py --build $(BUILD) --faults 2000 \
	  test_pg_faults test_failover test_drain_load

clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD) -path $(DEB) -prune -o -type f -name '*.d' -print 2>/dev/null)
